"""Predictions for the tasks of a configuration or of measured runs. Start with `predict`."""
