"""Mixtures of regression tasks: frequencies, spectra, directions; start with `task_mixture`."""
