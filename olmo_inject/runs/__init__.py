"""A run folder: its files, who may change it, and the evidence in it.

`folder` writes a run folder, `read` reads one without running its code, and `same_run` says whether two runs are the
same; `metrics` and `evidence` are its logs.
"""
