"""Figures of the theory; start with `figures`, which names them."""
