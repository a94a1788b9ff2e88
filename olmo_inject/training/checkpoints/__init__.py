"""Checkpoints: saved and restored, converted, exported; start with `save_restore`."""
