"""Scoring of a model on tasks and references, in a run and afterwards; start with `tasks`."""
