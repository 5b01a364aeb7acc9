"""Figures, TensorBoard, terminal output, results of a test, and the report."""
