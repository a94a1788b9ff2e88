"""The demo's runs, and one of them from beginning to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.read.runs import read_run
from launch import demo as demo_module
from launch.demo import RUNS, demo
from olmo_inject.cli import main
from olmo_inject.config import load_experiment


def test_the_runs_are_a_grid_of_widths_and_frequencies_and_a_burst_at_one_of_them() -> None:
    cells = {}
    for config, width in RUNS:
        experiment = load_experiment(config, [f"model=tiny-{width}"])
        assert experiment.model.d_model == width
        (injection,) = experiment.injections
        cells[injection.schedule, width, experiment.frequency(injection).per_batch] = experiment.steps
    assert len(cells) == len(RUNS)
    even = {cell[1:] for cell in cells if cell[0] == "uniform"}
    widths, rates = {width for width, _ in even}, {rate for _, rate in even}
    assert len(widths) >= 3
    assert len(rates) >= 2
    assert even == {(width, rate) for width in widths for rate in rates}
    (burst,) = (cell[1:] for cell in cells if cell[0] == "burst")
    assert burst in even
    assert len(set(cells.values())) == 1  # all as long


def test_one_run_from_corpus_to_report_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_module, "RUNS", (("demo", 8),))
    steps = ("train.max_duration=3", "train.eval_interval=3")
    folder = tmp_path / "demo"
    assert demo(folder, jobs=1, overrides=steps)
    shown = capfd.readouterr()
    assert "often-8: done" in shown.err
    assert "audit of often-8" in shown.err
    assert "The audit of 1 run found every row as planned." in shown.out
    assert "often-8" in (folder / "report.html").read_text()
    assert "data:image/svg+xml" in (folder / "report.html").read_text()
    assert (folder / "figures" / "overview-tcmp.png").stat().st_size < 150_000
    run = read_run(folder / "runs" / "often-8")
    assert run.finished
    assert run.audit is not None
    assert run.audit["passed"]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert demo(folder, jobs=1, overrides=steps)
    shown = capfd.readouterr()
    assert "1 runs, 1 of them finished already" in shown.err
    assert "started" not in shown.err
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"report.html"} | {path.name for path in (folder / "figures").iterdir()}

    # A run of other steps is in the way: refused before anything is trained.
    with pytest.raises(SystemExit) as ended:
        main(["demo", "train.max_duration=4", "--to", str(folder)])
    assert ended.value.code == 2
    shown = capfd.readouterr()
    assert "is a run of another experiment: train.max_duration" in shown.err
    assert "Traceback" not in shown.err

    # Where a run cannot even begin, there is nothing to report.
    other = tmp_path / "other"
    shutil.copytree(folder / "corpus", other / "corpus")
    monkeypatch.setattr(demo_module, "train_command", lambda *_: ["false"])
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--to", str(other)])
    assert ended.value.code == 2
    assert "no run has begun" in capfd.readouterr().err
    assert not (other / "report.html").exists()

    # Where one of two fails, the other is reported, and the demo is no success.
    monkeypatch.setattr(demo_module, "RUNS", (("demo", 8), ("demo", 16)))
    assert not demo(folder, jobs=1, overrides=steps)
    shown = capfd.readouterr()
    assert "often-16 failed with status 1" in shown.err
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--to", "FILE"], "is not a folder"), (["--to", "NEW", "--jobs", "0"], "--jobs: 0")]
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    places = {"FILE": str(tmp_path / "file"), "NEW": str(tmp_path / "new")}
    with pytest.raises(SystemExit) as ended:
        main(["demo", *(places.get(argument, argument) for argument in arguments)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "new").exists()
