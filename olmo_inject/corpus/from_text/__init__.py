"""A corpus out of text: the sample, or documents of your own; start with `build`."""
