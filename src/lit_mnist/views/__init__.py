"""What people look at: figures, dashboard, evaluation, report."""
