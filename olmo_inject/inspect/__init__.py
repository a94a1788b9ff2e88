"""Show what an experiment injects: its plan (`plan`, `summary`) and the rows of a step (`step`)."""
