"""Closed forms: what a width holds, critical widths, gaps, overlaps. Start with `closed_forms`."""
