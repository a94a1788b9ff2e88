"""Save, restore, convert and export checkpoints. Start with `save_restore`."""
