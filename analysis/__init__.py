"""Turn checkpoints and metrics into figures and reports.

`read` loads runs, checkpoints and stored results. `methods` computes tables from them, `figures` draws tables, and
`report` puts figures and findings on one HTML page. `study` is the paper's experiment in miniature.
"""
