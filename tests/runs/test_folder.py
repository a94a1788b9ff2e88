"""What may be deleted, rewritten, read and run of a run's folder, which may be somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from ranks import alone
from runs import train_on_rank, write_experiment

from analysis.figures import style
from analysis.read.runs import read_run
from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.config import CorpusConfig, load_experiment
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import delete_run
from olmo_inject.runs.read import load_run, moved_corpus, read_evidence, saved_tasks
from olmo_inject.tasks import Task
from olmo_inject.utils.files import read_json, write_json

pytestmark = pytest.mark.slow

SUBTRACTION = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from olmo_inject.tasks import all_pairs

Path(__file__).with_name("canary").touch()

@dataclass(frozen=True)
class Subtraction:
    n_values: int = 5

    @property
    def n_tokens(self):
        return self.n_values

    def instances(self, tokens):
        a, b = all_pairs(self.n_values)
        return np.stack([tokens[a], tokens[b], tokens[(a - b) % self.n_values]], axis=1)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a kind of its own, made with paths relative to its folder."""
    folder = tmp_path_factory.mktemp("made")
    path = write_experiment(folder)
    (folder / "subtraction.py").write_text(SUBTRACTION)
    text = path.read_text().replace(f"{folder}/part", "part").replace(f"{folder}/run", "run")
    path.write_text(text.replace("kind: modular_addition", "kind: 'subtraction.py:Subtraction'"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with alone():
            assert "trained" in train_on_rank(path, "train.max_duration=4")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def _status(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_overwrite_deletes_nothing_of_a_folder_that_merely_holds_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path)
    (tmp_path / "thesis.txt").write_text("years")
    before = sorted(tmp_path.rglob("*")), path.read_text()
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--overwrite",)):
        assert _status("train", "experiment.yaml", "folder=.", *more, "--device", "cpu") == 2
        assert "exists and is not a run" in capsys.readouterr().err
    assert (sorted(tmp_path.rglob("*")), path.read_text()) == before


def test_overwrite_keeps_what_no_run_writes_and_goes_on_after_a_kill(trained: Path, run: Path) -> None:
    (run / "notes.md").write_text("mine")
    (run / "analysis").mkdir()
    (run / "analysis" / "mine.py").write_text("mine")
    delete_run(run)  # and then a kill: the new run is not begun
    assert {path.name for path in run.rglob("*")} == {".lock", "plan.json", "notes.md", "analysis", "mine.py"}
    path = trained / "experiment.yaml"
    overrides = (f"folder={run}", f"corpus.paths=['{trained}/part-*.npy']", "train.max_duration=4")
    kind = f"tasks.1.kind={trained}/subtraction.py:Subtraction"
    with alone():
        assert "--overwrite finishes it" in train_on_rank(path, *overrides, kind)
        assert "trained" in train_on_rank(path, *overrides, kind, overwrite=True)
    assert (run / "notes.md").read_text() == "mine"
    assert (run / "step4").is_dir()


def test_a_kill_within_a_deletion_leaves_what_the_same_command_deletes(run: Path) -> None:
    (run / "experiment.yaml").unlink()
    shutil.rmtree(run / "step4")
    delete_run(run)
    assert [path.name for path in run.iterdir() if path.name != ".lock"] == ["plan.json"]


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_refused_command_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    run = tmp_path / "run"
    with alone():
        assert "trained" in train_on_rank(path, "train.max_duration=4", "train.scheduler.t_max=12")
        before = _contents(run)
        short = train_on_rank(path, "train.max_duration=2", "train.scheduler.t_max=12")
        assert "is at step 4" in short
        assert _contents(run) == before
        branch = ("folder=" + str(tmp_path / "branch"), f"start_from={run}/step4", "start_state=full")
        for unfit, said in (
            (("model.n_layers=3",), "does not fit the model"),
            (("train.max_duration=3",), "is at step 4"),
            (("train.global_train_batch_size=6",), "a branch keeps the batch"),
        ):
            assert said in train_on_rank(path, *branch, *unfit)
            assert not (tmp_path / "branch").exists()


def test_reading_a_run_runs_none_of_its_code(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "run"
    monkeypatch.chdir(trained)  # where the file that the experiment names is found
    (trained / "canary").unlink(missing_ok=True)
    for command in (
        ("audit", run),
        ("report", run, "--out", tmp_path / "page.html"),
        ("export", run / "step4", "--out", tmp_path / "exported", "--no-tokenizer"),
        ("export", run / "step4", "--out", tmp_path / "none"),  # refused for want of a tokenizer
        ("unshard", run / "step4", "--out", tmp_path / "unsharded"),
        ("evaluate", run, "--device", "cpu"),
        ("evaluate", run, "--tasks", run / "experiment.yaml", "--device", "cpu"),
        ("analyze", "gradients", run, "--steps", "0", "--device", "cpu", "--out", tmp_path / "gradients"),
        ("analyze", "behaviour", run, "--device", "cpu", "--out", tmp_path / "behaviour"),
        ("plan", run / "experiment.yaml"),
        ("cost", run / "experiment.yaml"),
        ("cost", run / "experiment.yaml", *("--calibrate", "--calibrate-steps", "1", "--accelerator", "cpu-core")),
        ("preflight", run / "experiment.yaml", "--quick", "--processes", "1", "--device", "cpu"),
        ("corpus", "scan", "-", run / "experiment.yaml"),
        ("corpus", "show", run / "experiment.yaml", "--injections", run / "experiment.yaml", "--step", "0"),
    ):
        assert _status(*command) in (0, 1, 2)
        assert not (trained / "canary").exists(), command
        said = capsys.readouterr().err
        assert "subtraction" not in said, (command, said)
    shutil.rmtree(run / "analysis", ignore_errors=True)
    assert _status("plan", trained / "experiment.yaml") == 0  # one's own configuration
    assert (trained / "canary").exists()


def test_a_saved_task_of_a_built_in_kind_does_not_let_the_code_of_an_experiment_run(run: Path) -> None:
    task = Task.load(run / "tasks" / "plus.json")
    task.config.kind, task.config.options = "modular_addition", {"n_values": 5}
    del task.__dict__["fingerprint"]
    task.save(run / "tasks")
    saved = load_run(run)
    assert saved.has_own_code
    found = saved_tasks(run / "experiment.yaml", saved.experiment)
    assert found is not None
    assert [each.fingerprint for each in found] == [each.fingerprint for each in saved.tasks]


def test_what_a_run_s_own_code_made_is_not_changed_on_the_command_line(
    trained: Path,
) -> None:
    experiment = load_experiment(trained / "run" / "experiment.yaml")
    assert saved_tasks(trained / "experiment.yaml", experiment) is None  # one's own configuration
    assert saved_tasks(trained / "run" / "experiment.yaml", experiment) is not None
    experiment.tasks[0].seed += 1
    with pytest.raises(UserError, match="copy the file to change its tasks"):
        saved_tasks(trained / "run" / "experiment.yaml", experiment)


@pytest.mark.parametrize("command", [("audit",), ("report",), ("export",), ("evaluate",), ("analyze", "behaviour")])
def test_a_name_that_the_system_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """As a folder without permission, which does not keep a test's root user out."""
    to = () if command in (("audit",), ("evaluate",)) else ("--out", tmp_path / "to")
    assert _status(*command, tmp_path.joinpath(*["x" * 200] * 25), *to) == 2
    assert "too long" in capsys.readouterr().err


def test_a_run_is_read_from_anywhere_and_with_a_moved_corpus(
    trained: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert audit_run(run, progress=False).passed  # its corpus and its task's file lie elsewhere
    plan = read_json(run / "plan.json")
    write_json(run / "plan.json", {key: value for key, value in plan.items() if key != "made_in"})
    with pytest.raises(UserError, match="nothing matches"):  # an old run, which does not say where it was made
        audit_run(run, progress=False)
    moved = tmp_path / "moved"
    moved.mkdir()
    for shard in trained.glob("part-*.npy"):
        shutil.copy(shard, moved)
    write_json(run / "plan.json", plan | {"made_in": str(tmp_path / "gone")})
    config = run / "experiment.yaml"
    config.write_text(config.read_text().replace("part-*.npy", "part-0.npy\n  - part-1.npy"))
    assert audit_run(run, progress=False, corpus=moved).passed
    assert load_run(run, moved).experiment.corpus.paths == [str(moved / f"part-{i}.npy") for i in (0, 1)]
    (moved / "corpus.json").touch()
    cut = CorpusConfig(folder=str(tmp_path / "gone"), seed=3, sequences=5)
    assert moved_corpus(cut, moved) == CorpusConfig(folder=str(moved), seed=3, sequences=5)


def test_a_finished_run_takes_on_where_its_corpus_is_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(tmp_path)
    with alone():
        assert "trained" in train_on_rank(path, "train.max_duration=4")
    (tmp_path / "new").mkdir()
    for shard in tmp_path.glob("part-*.npy"):
        shard.rename(tmp_path / "new" / shard.name)
    there = f"{tmp_path}/new/part-*.npy"
    assert _status("train", path, "train.max_duration=4", f"corpus.paths=['{there}']", "--device", "cpu") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert load_run(tmp_path / "run").experiment.corpus.paths == [there]


def test_a_read_only_run_passes_with_a_note(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "analysis").write_text("")  # so that no verdict can be written, whoever tries
    assert _status("audit", run) == 0
    assert "the verdict was not saved" in capsys.readouterr().err


def _rename_task(run: Path) -> None:
    for place in ("experiment.yaml", "plan.json"):
        (run / place).write_text((run / place).read_text().replace("less", "../../.."))


def _task_of_another_name(run: Path) -> None:
    record = read_json(run / "tasks" / "less.json")
    task = Task.load(run / "tasks" / "less.json")
    task.config.name = record["config"]["name"] = "../../.."
    del task.__dict__["fingerprint"]
    write_json(run / "tasks" / "less.json", record | {"fingerprint": task.fingerprint})


@pytest.mark.parametrize("spoil", [_rename_task, _task_of_another_name])
def test_a_name_that_leads_elsewhere_is_refused(
    run: Path, tmp_path: Path, spoil: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run)
    before = sorted(path for path in tmp_path.rglob("*"))
    for command in (
        ("report", run, "--out", tmp_path / "page.html", "--figures", tmp_path / "a" / "b"),
        ("analyze", "behaviour", run, "--out", tmp_path / "run" / "c"),
    ):
        assert _status(*command) == 2
        assert "must be a word of letters" in capsys.readouterr().err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".svg", ".png", ".html")] == []
    assert set(before) <= set(tmp_path.rglob("*"))


def test_a_dollar_in_a_name_is_drawn_as_it_is_written() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_title(r"a run $\nosuch$")
    axes.set_ylabel("$R^2$")
    assert style.svg(figure)
    assert axes.yaxis.label.get_parse_math()


_OTHER = (b"[]", b'"text"', b"7", b"null", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": ' * 100_000)


@pytest.mark.parametrize(
    "name",
    ["experiment.yaml", "plan.json", "tasks/less.json", "metrics.jsonl", "evidence.jsonl", "analysis/audit.json"],
)
def test_a_damaged_file_is_one_line(run: Path, name: str) -> None:
    path = run / name
    path.parent.mkdir(exist_ok=True)

    def read() -> None:
        list(read_evidence(run)) if name.startswith("evidence") else read_run(run)

    for content in _OTHER:
        if (name, content) == ("analysis/audit.json", b"{}"):
            continue  # as old ones, which say too little
        path.write_bytes(content + b"\n")
        with pytest.raises(UserError) as refused:
            read()
        assert "\n" not in str(refused.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError):
        read()
    path.rmdir()
    path.symlink_to(path)
    with suppress(UserError):  # or is not there, as where nothing was measured yet
        read()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plan.json", {"injections": []}),
        ("plan.json", {"fingerprints": {"corpus": 3}}),
        ("plan.json", {"first_step": "0"}),
        ("tasks/less.json", {"instances": [1, 2, 3]}),
        ("tasks/less.json", {"train_ids": [10**6]}),
        ("tasks/less.json", {"config": []}),
        ("step4/checkpoint.json", {"files": []}),
        ("step4/checkpoint.json", {"files": {"model.pt": 3}}),
    ],
)
def test_a_file_of_another_shape_is_one_line(run: Path, name: str, change: dict[str, object]) -> None:
    write_json(run / name, read_json(run / name) | change)
    with pytest.raises(UserError, match=Path(name).name):
        audit_run(run, progress=False)


@pytest.mark.parametrize("change", [{"step": None}, {"tokens": 3}, {"labels": []}, {"rows": "12"}])
def test_a_line_of_another_shape_is_refused(run: Path, change: dict[str, object]) -> None:
    lines = [json.loads(line) for line in (run / "evidence.jsonl").read_text().splitlines()]
    lines[1] |= change
    (run / "evidence.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="line 2"):
        list(read_evidence(run))
