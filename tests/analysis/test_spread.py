"""Work divided among processes with `--part`, `--submit local` and `--merge`: the same results as of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from copies import Copies

from olmo_inject.commands.spreading import jobs_folder
from olmo_inject.errors import UserError
from olmo_inject.runs.read import EXPERIMENT, PLAN
from olmo_inject.utils.parts_of_work import Part

Call = Callable[..., tuple[int, str, str]]
PATCHING = ("--steps", "all", "--pairs", "8")


@pytest.mark.parametrize("text", ["8/8", "1", "1/0", "-1/2", "a/b", "1/2/3", "0/1000000000000"])
def test_a_part_is_a_number_below_a_count(text: str) -> None:
    with pytest.raises(UserError, match="--part"):
        Part.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_parts_hold_each_item_once(count: int) -> None:
    parts = [Part.parse(f"{index}/{count}").of(range(10)) for index in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(10))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "0/2", "--merge"], "--part and --merge: give one of them"),
        (["--submit", "lsf"], "--submit: 'lsf' is not one of slurm, local"),
        (["--site", "site.yaml"], "--site: only with --submit slurm"),
        (["--submit", "local", "--site", "site.yaml"], "--site: only with --submit slurm"),
        (["--parts", "2"], "--parts: only with --submit"),
        (["--submit", "local", "--parts", "0"], "--parts: 0 must be"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], said: str, call: Call) -> None:
    status, _, err = call("audit", "nowhere", *options)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_parts_of_an_analysis_are_the_whole(copies: Copies, call: Call) -> None:
    whole, parts = copies.make("whole"), copies.make("parts")
    assert call("analyze", "patching", whole, *PATCHING)[0] == 0

    status, out, _ = call("analyze", "patching", parts, *PATCHING, "--part", "1/2")
    assert (status, out) == (0, "part 1/2: 1 checkpoint done\n")
    status, _, err = call("analyze", "patching", parts, *PATCHING, "--merge")
    assert status == 2
    assert err == (
        "olmo-inject: --merge: 2 of 3 checkpoints not kept: parts step4, parts step12; --submit or --part does them\n"
    )
    assert not list(parts.glob("analysis/*.parquet"))
    status, out, _ = call("analyze", "patching", parts, *PATCHING, "--part", "0/2", "--json")
    assert json.loads(out) == {"part": "0/2", "done": 2}
    assert call("analyze", "patching", parts, *PATCHING, "--merge")[0] == 0
    assert tables(whole) == tables(parts)


@pytest.mark.slow
def test_processes_here_do_what_is_missing_and_the_command_goes_on(
    copies: Copies, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = copies.make("whole"), copies.make("parts")
    monkeypatch.chdir(parts.parent)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert call("analyze", "behaviour", whole)[0] == 0
    for run in (whole, parts):
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(line for line in lines if '"eval/less' not in line))
    assert call("analyze", "behaviour", whole)[0] == 0
    assert call("analyze", "behaviour", "parts", "--part", "2/3")[0] == 0
    status, _, err = call("analyze", "behaviour", "parts", "--submit", "local", "--parts", "3", "--device", "cpu")
    assert status == 0, err
    assert "part 0 of 3: done" in err
    assert "part 2 of 3" not in err
    assert tables(whole) == tables(parts)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "noun"), [("audit", "run"), ("evaluate", "checkpoint")])
def test_results_of_parts_are_those_of_one_process(command: str, noun: str, copies: Copies, call: Call) -> None:
    folder = copies.make("one").parent
    copies.make("two")
    runs, kept = [folder / "one", folder / "two"], folder / "analysis" / "jobs" / command
    assert call(command, *runs, "--part", "1/2")[0] == 0
    status, _, err = call(command, *runs, "--merge", "--json")
    assert status == 2
    assert f"{noun}s not kept: " in err
    assert call(command, *runs, "--part", "0/2")[0] == 0
    times = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert call(command, *runs, "--part", "0/2")[0] == 0  # as after a requeue; nothing is computed again
    assert times == {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    merged = call(command, *runs, "--merge", "--json")
    assert merged == call(command, *runs, "--json")
    assert len(json.loads(merged[1])) >= 2

    # A run that has changed since then is missing; a result of something else in the place of one is refused.
    first, second, *_ = sorted(kept.iterdir())
    first.write_bytes(second.read_bytes())
    status, _, err = call(command, *runs, "--merge")
    assert status == 2
    assert f"{first} is not the result of " in err
    assert err.count("\n") == 1
    first.unlink()
    if command == "audit":
        (folder / "two" / "evidence.jsonl").write_text("")
    else:
        (folder / "two" / "plan.json").write_text((folder / "two" / "plan.json").read_text() + "\n")
    status, _, err = call(command, *runs, "--merge")
    assert status == 2
    assert "two" in err


def test_jobs_are_kept_in_the_run_and_not_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("one", "two"):
        for checkpoint in ("step4", "step8", "checkpoints/checkpoint-4", "checkpoints/checkpoint-8"):
            (tmp_path / run / checkpoint).mkdir(parents=True)
        for name in (EXPERIMENT, PLAN):
            (tmp_path / run / name).touch()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    for paths, folder in (
        (["step8"], "one"),
        (["step4", "step8"], "one"),
        (["checkpoints/checkpoint-4", "checkpoints/checkpoint-8"], "one"),
        ([".", "../two/step4"], "."),
        ([".."], "."),
        (["../model"], "model"),
    ):
        assert jobs_folder([Path(path) for path in paths]) == (tmp_path / folder).resolve() / "analysis" / "jobs"


def tables(run: Path) -> dict[str, str | None]:
    """Every table as text, with all digits and without the run's name."""
    return {
        path.name: pd.read_parquet(path).drop(columns=["run", "folder"]).to_json(double_precision=15)
        for path in sorted(run.glob("analysis/*.parquet"))
    }
