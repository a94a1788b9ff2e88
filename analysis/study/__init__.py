"""The study in miniature: from the sweeps' collected measurements to figures, tables and a verdict for each claim."""
