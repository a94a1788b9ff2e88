"""A run folder: what is in it, who may change it, what evidence it keeps and how the audit checks it.

`folder` writes a run; `read` reads one and never runs code that it names; `metrics` and `evidence` are its logs;
`audit` compares evidence and plan.
"""
