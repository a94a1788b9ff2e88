"""Make a corpus from text: the sample corpus (`sample`), or documents of your own (`build`)."""
