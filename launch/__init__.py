"""Starts runs: ranks (`torchrun`), sweeps (`sweep`, `submit`), checks before a run (`preflight`), costs (`cost/`).

A sweep file becomes cells (`sweep`), whose state is read from the sweep's folder (`cells`). `submit` trains those that
remain, on this machine (`local`, by the process `pool`) or as job arrays (`slurm`). `demo` is one sweep with audit and
report.
"""
