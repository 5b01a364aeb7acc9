"""What a run leaves and how it continues."""
