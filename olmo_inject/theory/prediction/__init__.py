"""What the theory says of the tasks of a configuration or of measured runs; start with `predict`."""
