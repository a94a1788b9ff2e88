"""A run folder: what is in it, who may change it, and what evidence it keeps.

`folder` writes a run; `read` reads one and never runs code that it names; `metrics` and `evidence` are its logs.
"""
