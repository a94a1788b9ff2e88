"""Training on a mixture, many seeds and gaps at once, and the gradients it follows; start with `train`."""
