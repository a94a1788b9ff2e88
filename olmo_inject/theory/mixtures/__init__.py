"""Mixtures of regression tasks: frequencies, spectra, directions. Start with `task_mixture`."""
