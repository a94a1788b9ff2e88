"""Who speaks for a run, and what left-over variables of another launcher do."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo_inject.cli import main
from olmo_inject.rank_environment import VARIABLES, is_first_rank, is_rank


def set_only(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_rank_has_all_that_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    full = dict.fromkeys(VARIABLES, "1")
    set_only(monkeypatch, **full)
    assert (is_rank(), is_first_rank()) == (True, False)
    for missing in VARIABLES:
        set_only(monkeypatch, **{name: value for name, value in full.items() if name != missing})
        assert (is_rank(), is_first_rank()) == (False, True)


def test_outside_a_run_a_mistake_is_always_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_only(monkeypatch, RANK="1")
    with pytest.raises(SystemExit) as ended:
        main(["plan", "nothing.yaml"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("olmo-inject: nothing.yaml is neither a file")


@pytest.mark.parametrize("command", ["train", "preflight"])
def test_left_over_variables_are_named_before_ranks_are_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    set_only(monkeypatch, RANK="0", WORLD_SIZE="1")
    with pytest.raises(SystemExit) as ended:
        main([command, "demo", f"folder={tmp_path / 'run'}"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("olmo-inject: RANK, WORLD_SIZE are set, as for a rank, but not all of")
    assert not (tmp_path / "run").exists()
