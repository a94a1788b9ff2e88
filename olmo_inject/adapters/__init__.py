"""Inject, measure and keep evidence in training loops other than ai2-olmo's. Nothing here imports ai2-olmo.

`run` opens an experiment; `recorder` measures it and writes its run folder. `transformers`, `olmo_core` and
`torchtitan` connect both to a trainer. A loop of your own uses `run` and `recorder` directly: docs/trainers.md.
"""
