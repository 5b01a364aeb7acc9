"""Many runs, each of them a fit."""
