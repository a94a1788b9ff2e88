"""Labels of runs: a name where it is enough, and the shortest end of a path where it is not."""

from __future__ import annotations

import shutil

import pytest
from copies import Copies
from hypothesis import given
from hypothesis import strategies as st

from analysis.read.run_labels import file_part, labels
from analysis.read.runs import read_runs

folders = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([("x", "/r/x"), ("y", "/r/y")], ["x", "y"]),
        ([("x", "/r/a/x"), ("x", "/r/b/x"), ("y", "/r/y")], ["a/x", "b/x", "y"]),
        ([("x", "/r/one"), ("x", "/r/two")], ["x (one)", "x (two)"]),
        ([("x", "/r/a/x/run"), ("x", "/r/b/x/run"), ("x", "/r/b/y/run")], ["x (a/x/run)", "x (b/x/run)", "x (y/run)"]),
        ([("x", "/r/x"), ("x", "/x")], ["r/x", "/x"]),
        ([("x", "/r/x"), ("x", "/r/x")], ["x"]),
    ],
)
def test_the_shortest_end_that_tells_them_apart(runs: list[tuple[str, str]], expected: list[str]) -> None:
    assert list(labels(runs).values()) == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), folders), max_size=8, unique_by=lambda run: run[1]))
def test_no_two_have_one_label(runs: list[tuple[str, str]]) -> None:
    found = labels(runs)
    assert len(set(found.values())) == len(runs)
    assert all(found[folder].startswith(name) or found[folder].endswith(name) for name, folder in runs)


def test_names_of_files() -> None:
    assert file_part("a/twin") == "a-twin"
    assert file_part("my first (one/two)") == "my-first-one-two"
    assert file_part("size=20M,rate=0.1") == "size=20M,rate=0.1"


def test_runs_that_are_read_together_have_names_of_their_own(copies: Copies) -> None:
    run, other = copies.make("twin"), copies.make("other")
    assert {run.name for run in read_runs([run, other])} == {"twin", "other"}
    shutil.copy(run / "experiment.yaml", other / "experiment.yaml")
    assert {run.name for run in read_runs([run, other])} == {"twin", "twin (other)"}
