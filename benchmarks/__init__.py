"""Costs as ratios to the real alternatives, each measured within one run: `make bench`."""
