"""Controlled injection of task instances into language-model pretraining."""

from olmo_inject.olmo_imports import defer

defer()
