"""Scaling laws of Section 2, and their fits to measurements. Start with `laws`."""
