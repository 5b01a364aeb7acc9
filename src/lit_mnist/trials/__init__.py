"""Many fits: of configs over several seeds, or of the trials in a search."""
