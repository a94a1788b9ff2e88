"""Closed forms: what a width holds, critical widths, gaps, overlaps; start with `closed_forms`."""
