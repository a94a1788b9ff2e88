"""Trains with ai2-olmo's trainer. Start with `run`, one rank from start to end; then `trainer`."""
