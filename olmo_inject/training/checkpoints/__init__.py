"""Saves, restores, converts and exports checkpoints. Start with `save_restore`."""
