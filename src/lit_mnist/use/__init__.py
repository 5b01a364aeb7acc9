"""Use of a trained model: prediction, export and the demo."""
