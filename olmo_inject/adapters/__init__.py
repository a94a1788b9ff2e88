"""Injection, measurement and evidence for training loops other than ai2-olmo's; nothing here imports ai2-olmo.

`run` opens an experiment, `recorder` measures it and keeps its folder; `transformers`, `olmo_core` and `torchtitan` fit
them to a trainer. A loop of your own uses the first two: docs/trainers.md.
"""
