"""Read runs, checkpoints and stored results as arrays and tables. Start with `runs`."""
