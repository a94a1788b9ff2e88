"""The demo's sweep, and a demo of one run from beginning to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.read.runs import read_run
from launch import demo as demo_module
from launch.demo import SWEEP, demo
from launch.sweep import load_sweep
from olmo_inject.cli import main

pytestmark = pytest.mark.slow

SMALL = """
name: demo
experiment: study
set:
  train.max_duration: 3
  train.eval_interval: 3
  corpus.folder: "${folder}/english"
  evaluation.also.windows: []
  gradients.at.windows: []
axes: [{name: width, cases: {8: {model: tiny-8}, 16: {model: tiny-16}}}]
exclude: [{width: 16}]
resources: {gpus_per_node: 0}
"""


def test_the_sweep_gives_equal_bursts_to_wide_and_narrow_models_beside_text_and_without(tmp_path: Path) -> None:
    cells = load_sweep(SWEEP, folder=tmp_path).cells
    widths: dict[str, set[int]] = {}
    for cell in cells:
        assert cell.labels["width"] == str(cell.experiment.model.d_model)
        assert cell.resources.gpus_per_node == 0
        assert cell.experiment.corpus.folder == str(tmp_path / cell.labels["text"])
        widths.setdefault(cell.labels["text"], set()).add(cell.experiment.model.d_model)
    assert len(widths["english"]) >= 3
    assert widths["alternating"] < widths["english"]
    assert min(widths["english"]) in widths["alternating"]
    # All are trained alike: the same steps, the same bursts, the same learning rate.
    assert len({str(cell.experiment.injections) for cell in cells}) == 1
    assert len({str(cell.experiment.train) for cell in cells}) == 1
    assert {entry.schedule for cell in cells for entry in cell.experiment.injections} == {"burst"}


def test_one_run_from_corpus_to_report_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep, folder = tmp_path / "small.yaml", tmp_path / "demo"
    sweep.write_text(SMALL)
    monkeypatch.setattr(demo_module, "SWEEP", str(sweep))

    # Where no run can begin, there is nothing to report.
    blocked = folder / "runs" / "width-8" / "foreign"
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(folder)])
    assert ended.value.code == 2
    assert "no run has begun" in capfd.readouterr().err
    assert not (folder / "report.html").exists()
    blocked.unlink()

    # The same command trains it after all.
    assert demo(folder, at_once=1)
    shown = capfd.readouterr()
    assert "width-8: done" in shown.err
    assert "audit of width-8" in shown.err
    assert "tcmp: not above majority. The accuracy is 0.000" in shown.out
    assert "width-8" in (folder / "report.html").read_text()
    assert "identical" in (folder / "report.html").read_text()  # the audit's verdict
    assert "data:image/svg+xml" in (folder / "report.html").read_text()
    assert (folder / "figures" / "accumulation-tcmp.png").stat().st_size < 150_000
    run = read_run(folder / "runs" / "width-8")
    assert run.finished
    assert run.audit is not None
    assert run.audit["passed"]

    # A run of another learning rate is in the way: refused before anything is trained.
    with pytest.raises(SystemExit) as ended:
        main(["demo", "train.optimizer.learning_rate=0.01", "--out", str(folder)])
    assert ended.value.code == 2
    shown = capfd.readouterr()
    assert "train.optimizer.learning_rate 0.003 -> 0.01" in shown.err
    assert "Traceback" not in shown.err

    # Where another run fails, the first is not trained again but reported, and the demo is no success.
    sweep.write_text(SMALL.replace("exclude: [{width: 16}]\n", ""))
    (folder / "runs" / "width-16").mkdir()
    (folder / "runs" / "width-16" / "foreign").touch()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert not demo(folder, at_once=1)
    shown = capfd.readouterr()
    assert "1 of 2 cells to train: 1 done" in shown.err
    assert "width-8: started" not in shown.err
    assert "width-16: FAILED with status 2" in shown.err
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert "report.html" in changed
    assert changed <= {"report.html", ".submitter"} | figures
    shutil.rmtree(folder)


def test_a_file_in_its_place_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "file")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a folder" in line
