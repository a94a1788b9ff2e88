"""Write one self-contained HTML page about a set of runs. Start with `report`, then `sections`."""
