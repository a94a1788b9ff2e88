"""The acceptance checks of `theory validate`; start with `registry`."""
