"""Draw figures from runs and tables, in one style. Start with `style`.

Each module has the figures of one analysis. Colours come from `olmo_inject.utils.figure_style`.
"""
