"""Figures of the theory. Start with `figures`, which lists them by name."""
