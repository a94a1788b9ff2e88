"""Figures from tables, in one style; start with `style`."""
