"""The parts of a page, without runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from copies import Copies
from matplotlib.figure import Figure
from pages import sections_of

from analysis.report.page import Drawing, write_figures
from olmo_inject.errors import UserError


def test_no_figure_replaces_another(tmp_path: Path) -> None:
    first, second = (Drawing(name, Figure(), "", pd.DataFrame()) for name in ("a", "b"))
    assert [path.name for path in write_figures([first, second], tmp_path, "x-")] == [
        *("x-a.svg", "x-a.png", "x-b.svg", "x-b.png")
    ]
    with pytest.raises(UserError, match=r"2 figures would be x-a\.svg"):
        write_figures([first, second, first], tmp_path / "none", "x-")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_every_figure_of_a_report_has_its_own_name(copies: Copies) -> None:
    names = [drawing.name for section in sections_of([copies.make("one")]) for drawing in section.drawings]
    assert {"train-loss-less", "injected-loss-less"} <= set(names)
    assert len(names) == len(set(names))
