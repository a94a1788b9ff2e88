"""The theory laid over the cells (docs/theory.md): which of them should hold the task, from the text alone.

In the theory a model of width N spends its slots on what lowers its loss most. One more slot lowers the loss of the
text by -dL/dN nats a token; given to a task that comes f times a batch of T tokens it lowers the loss by up to
f log(n) / T, where n is the number of labels. So tasks are held in the order of

    utility(N, f) = f log(n) / (T (-dL/dN)),

and -dL/dN is measured: it is the slope of the text's residual loss over width.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportIndexIssue=false
from __future__ import annotations

import numpy as np
import pandas as pd

TOKENS = 128 * 8  # of a batch (configs/experiments/study.yaml)
GAINS = {
    "comparison": np.log(2),
    "modular_addition": np.log(23),
}  # nats: a label of two or of 23 that was not known and now is
FLATTEST = 1e-6  # nats a token and slot; a residual that no longer falls has no slope to divide by


def slopes(table: pd.DataFrame, by: str | None = None) -> pd.Series:
    """-dL/dN at every row's width, from the mean residual of each width, in nats a token and unit of width.

    Args:
        table: `sweep_table` with the columns width and residual.
        by: a column of the text that rows train beside; by default all have the same.

    Returns:
        A value for each row, indexed as `table`. By central differences over log N, one-sided at the ends.
    """
    slopes = pd.Series(np.nan, index=table.index)
    for _, group in table.groupby(by) if by is not None else [(None, table)]:
        residual = group.groupby("width")["residual"].mean()
        if len(residual) > 1:
            widths = residual.index.to_numpy(float)
            slope = -np.gradient(residual.to_numpy(float), np.log(widths)) / widths
            by_width = dict(zip(residual.index, np.maximum(slope, FLATTEST), strict=True))
            slopes.loc[group.index] = [by_width[width] for width in group["width"]]
    return slopes


def utilities(table: pd.DataFrame, by: str | None = None) -> pd.Series:
    """The utility of the task in each row's cell; see the module for what it is and `slopes` for the arguments."""
    return table["often"] * table["kind"].map(GAINS) / TOKENS / slopes(table, by)
