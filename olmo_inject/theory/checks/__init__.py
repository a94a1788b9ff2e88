"""The acceptance checks of `theory validate`. Start with `registry`."""
