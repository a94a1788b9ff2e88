"""One self-contained HTML page about a set of runs; start with `report`, then `sections`."""
