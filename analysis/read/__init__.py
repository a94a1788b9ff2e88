"""Runs, checkpoints and stored results as arrays; start with `runs`."""
