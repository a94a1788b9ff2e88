"""Start runs: ranks (`torchrun`), sweeps (`sweep`, `submit`), checks before a run (`preflight`), costs (`cost/`).

A sweep file becomes cells (`sweep`), whose state is read from the sweep's folder (`cells`). `submit` trains those that
remain, on this machine (`local`, with the process `pool`) or on SLURM (`slurm`, with `job_arrays`).
`demo` is one sweep with its audits and a report.
"""
