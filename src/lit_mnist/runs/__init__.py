"""What a run saves in its folder, and how it is resumed."""
