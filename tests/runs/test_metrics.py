"""The log of a run survives a kill, and a resume cuts it back to its checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from olmo_inject.errors import UserError
from olmo_inject.runs.metrics import JsonLines, Metrics, belongs_before, cut_back
from olmo_inject.utils.files import read_lines


def steps_of(path: Path) -> list[tuple[int, str]]:
    return [(record["step"], record.get("name", "")) for record in read_lines(path)]


def test_a_line_for_each_value(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "new" / "metrics.jsonl")
    metrics.log(0, {"loss": 2.5, "targets": 7})
    metrics.log(3, {"tcmp/loss": 1.0}, count=4)
    metrics.log(4, {"loss": math.nan, "norm": math.inf})
    metrics.close()
    assert list(read_lines(tmp_path / "new" / "metrics.jsonl")) == [
        {"step": 0, "name": "loss", "value": 2.5},
        {"step": 0, "name": "targets", "value": 7},
        {"step": 3, "name": "tcmp/loss", "value": 1.0, "count": 4},
        {"step": 4, "name": "loss", "value": None},
        {"step": 4, "name": "norm", "value": None},
    ]


def test_each_value_may_have_its_own_count(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.log(3, {"all": 0.5, "some": 0.25}, count={"all": 8, "some": 4})
    metrics.close()
    assert [(line["name"], line["count"]) for line in read_lines(tmp_path / "metrics.jsonl")] == [
        ("all", 8),
        ("some", 4),
    ]


def test_values_survive_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    value = 0.1 + 0.2
    metrics = Metrics(path)
    metrics.log(0, {"loss": value})
    metrics.close()
    assert next(read_lines(path))["value"] == value


def test_listeners_hear_a_step_at_once(tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, Any]]] = []
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.listen(lambda step, values: heard.append((step, dict(values))))
    metrics.log(2, {"a": 1, "b": 2})
    assert heard == [(2, {"a": 1, "b": 2})]
    metrics.close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    heard: list[int] = []
    metrics = Metrics(None)
    metrics.listen(lambda step, values: heard.append(step))
    metrics.log(0, {"a": 1})
    metrics.flush()
    metrics.close()
    assert not heard
    assert not list(tmp_path.iterdir())


def test_flushed_lines_are_in_the_file(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.log(0, {"a": 1})
    metrics.flush()
    assert steps_of(tmp_path / "metrics.jsonl") == [(0, "a")]
    metrics.close()


def test_a_log_is_continued_not_overwritten(tmp_path: Path) -> None:
    for step in range(3):
        log = JsonLines(tmp_path / "metrics.jsonl")
        log.append({"step": step})
        log.close()
    assert [record["step"] for record in read_lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def write(path: Path, *records: dict[str, Any], torn: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + torn)
    return path


@pytest.mark.parametrize("torn", ["{", '{"step": 2, "name": "loss", "va', '{"step": 2}', "\0\0\0"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    path = write(tmp_path / "metrics.jsonl", {"step": 0}, {"step": 1}, torn=torn)
    assert [record["step"] for record in read_lines(path)] == [0, 1]
    cut_back(path, belongs_before(9))
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'
    log = JsonLines(path)
    log.append({"step": 2})
    log.close()
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2], "nothing is glued to a torn line"


def test_cut_back_keeps_what_the_checkpoint_vouches_for(tmp_path: Path) -> None:
    """Checkpoint step 2 has the weights before step 2, which its evaluation was of."""
    path = write(
        tmp_path / "metrics.jsonl",
        {"step": 0, "name": "eval/tcmp/test/accuracy", "value": 0.5},
        {"step": 0, "name": "loss", "value": 3.0},
        {"step": 1, "name": "loss", "value": 2.0},
        {"step": 2, "name": "eval/tcmp/test/accuracy", "value": 0.6},
        {"step": 2, "name": "loss", "value": 1.0},
        {"step": 2, "name": "evaluated", "value": 1.0},
        {"step": 3, "name": "eval/tcmp/test/accuracy", "value": 0.7},
        torn='{"step": 3, "na',
    )
    cut_back(path, belongs_before(2))
    assert steps_of(path) == [
        (0, "eval/tcmp/test/accuracy"),
        (0, "loss"),
        (1, "loss"),
        (2, "eval/tcmp/test/accuracy"),
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_lines_without_a_name_belong_to_their_step(tmp_path: Path) -> None:
    path = write(tmp_path / "evidence.jsonl", *({"step": step, "tokens": "0"} for step in range(4)))
    cut_back(path, belongs_before(2))
    assert [step for step, _ in steps_of(path)] == [0, 1]


def test_cutting_what_is_not_there(tmp_path: Path) -> None:
    cut_back(tmp_path / "metrics.jsonl", belongs_before(2))
    assert not list(tmp_path.iterdir())


def test_cut_back_of_a_damaged_log_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", {"step": 0})
    path.write_text(path.read_text() + 'rubbish\n{"step": 1}\n')
    before = path.read_text()
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
        cut_back(path, belongs_before(2))
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_damage_inside_a_log_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", {"step": 0})
    path.write_text(path.read_text() + '{"step": \n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
        list(read_lines(path))


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl does not exist"):
        list(read_lines(tmp_path / "metrics.jsonl"))
