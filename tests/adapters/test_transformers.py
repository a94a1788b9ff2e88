"""transformers' own Trainer on the planned stream: what it was given, its resume, and what it is refused."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from streams import write_stream
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback
from transformers_run import MODELS, StopAt, train

from analysis.read.runs import read_run
from olmo_inject.adapters.recorder import Recorder, weights_sum
from olmo_inject.adapters.run import InjectedRun
from olmo_inject.adapters.transformers import Injection
from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.errors import UserError
from olmo_inject.training.evaluation.checkpoints import evaluate_checkpoint, find_checkpoint_paths, find_tasks
from olmo_inject.utils.files import read_lines

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = Path(__file__).with_name("transformers_run.py")
OUT = Path("run", "checkpoints")  # where a run's checkpoints are found


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The Trainer's own warnings are not ours to mend."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of each kind of model."""
    import warnings

    folders = {kind: tmp_path_factory.mktemp(kind) for kind in MODELS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, folder in folders.items():
            train(write_stream(folder, "transformers"), folder / OUT, kind, [])
    return folders


@pytest.fixture
def whole(wholes: dict[str, Path]) -> Path:
    """The run of a GPT-NeoX."""
    return wholes["gpt_neox"]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / OUT / f"checkpoint-{step}" / "model.safetensors")


def test_the_stream_is_the_plans_and_what_is_measured_is_read(whole: Path) -> None:
    audit = audit_run(whole / "run", progress=False)
    assert audit.verdict == "identical", audit.differences
    assert audit.labels == {"less": 20, "plus": 6}
    run = read_run(whole / "run")
    assert run.finished
    assert (run.size, run.parameters) == ("gpt_neox, 16 wide, 2 deep", 6528)
    assert list(run.accuracies("less")) == [0, 4, 8]
    assert run.lm_loss == pytest.approx(4.6, abs=0.4)


def test_the_loss_is_the_trainers_own(tmp_path: Path) -> None:
    """Summed over processes and micro-batches and divided by the targets, as the Trainer logs it."""
    losses: list[float] = []

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    train(write_stream(tmp_path, "transformers"), tmp_path / "out", "llama", [], (Listen(),), logging_steps=1)
    measured = read_run(tmp_path / "run").series("train/loss")
    assert measured.tolist() == pytest.approx(losses, rel=1e-5)
    assert audit_run(tmp_path / "run", progress=False).passed


@pytest.mark.parametrize("kind", MODELS)
def test_a_resume_is_exact(wholes: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Interrupted two steps after a checkpoint: the logs are cut back, the weights come out the same."""
    whole, config, out = wholes[kind], write_stream(tmp_path, "transformers"), tmp_path / OUT
    train(config, out, kind, [], (StopAt(6),))
    assert len(list(read_lines(tmp_path / "run" / "evidence.jsonl"))) == 6
    with pytest.raises(
        UserError, match=r"has been trained to step 4: train\(resume_from_checkpoint=True\) to continue"
    ):
        train(config, out, kind, [])
    train(config, out, kind, [], resume_from_checkpoint=str(out / "checkpoint-4"))
    for name in ("evidence.jsonl", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()
    theirs = weights(whole, 8)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(tmp_path, 8).items())


def test_weights_that_are_not_the_checkpoints_are_told(whole: Path) -> None:
    """The Trainer's resume leaves the head of a GPT-NeoX random; which weights were saved is known."""
    recorder = Recorder(InjectedRun.open(whole / "stream.yaml"))
    assert not recorder.has_saved_weights(AutoModelForCausalLM.from_config(MODELS["gpt_neox"]), 8)
    saved = AutoModelForCausalLM.from_pretrained(whole / OUT / "checkpoint-8")
    assert recorder.has_saved_weights(saved, 8)
    assert weights_sum(saved) != weights_sum(AutoModelForCausalLM.from_pretrained(whole / OUT / "checkpoint-4"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ["injections.0.instances_per_batch=2"]}, "injections.0.instances_per_batch"),
        ({"kind": "llama"}, "model.config.model_type"),
        ({"learning_rate": 1e-3}, r"settings.learning_rate 0\.01 -> 0\.001"),
    ],
)
def test_another_run_in_the_folder_is_refused(whole: Path, changes: dict[str, Any], message: str) -> None:
    before = (whole / "run" / "evidence.jsonl").read_bytes()
    arguments: dict[str, Any] = {"kind": "gpt_neox", "overrides": [], **changes}
    with pytest.raises(UserError, match=f"is a run of another experiment: .*{message}"):
        train(whole / "stream.yaml", whole / "elsewhere", **arguments)
    assert (whole / "run" / "evidence.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"gradient_accumulation_steps": 2},
            r"batch_size: 6, but the trainer's global batch has 4 rows: 2 on each of 1 processes, 2 times",
        ),
        ({"max_steps": 9}, "steps: 8, but the Trainer will train 9: change its max_steps"),
    ],
)
def test_another_batch_or_length_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(write_stream(tmp_path, "transformers"), tmp_path / "out", "gpt_neox", [], **arguments)
    assert not (tmp_path / "run").exists()


def test_a_shuffling_trainer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order of the Trainer's own subclass is found from the rows' numbers, before an update."""
    sampler = torch.utils.data.RandomSampler
    monkeypatch.setattr(Trainer, "_get_train_sampler", lambda self, dataset=None: sampler(self.train_dataset))
    with pytest.raises(UserError, match=r"step 0: the loader gave a row of step \d+: read positions in order"):
        train(write_stream(tmp_path, "transformers"), tmp_path / "out", "gpt_neox", [])


def test_a_callback_that_comes_late_is_refused(tmp_path: Path) -> None:
    run = InjectedRun.open(write_stream(tmp_path, "transformers"))
    late = Injection(run)

    class Late(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            args.train_sampling_strategy = "random"
            late.on_train_begin(args, state, control, **kwargs)

    with pytest.raises(UserError, match=r"pass the callback to Trainer\(callbacks=\[\.\.\.\]\): it sets the order"):
        train(tmp_path / "stream.yaml", tmp_path / "out", "gpt_neox", [f"folder={tmp_path}/late"], (Late(),))


def by_two(*runs: str) -> None:
    """Train on two processes, one run after another: the script's arguments of each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    arguments = ["--nproc-per-node=2", str(SCRIPT), PAIR, *runs]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


PAIR = "gpt_neox"  # whose output layer the Trainer leaves random on each process; the stream is the same for any kind


class Pair(NamedTuple):
    """Runs of two processes."""

    whole: Path
    stopped: Path  # after step 6


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One launch trains both, since most of its time is the start."""
    whole, stopped = (tmp_path_factory.mktemp(name) for name in ("pair", "stopped"))
    runs = [f"{write_stream(folder, 'transformers')},{folder / OUT}" for folder in (whole, stopped)]
    by_two(runs[0], f"{runs[1]},stop=6")
    return Pair(whole, stopped)


def test_two_processes_are_given_the_same_stream(wholes: dict[str, Path], pair: Pair) -> None:
    whole, two = wholes[PAIR], pair.whole
    assert audit_run(two / "run", progress=False).verdict == "identical"
    assert (two / "run" / "evidence.jsonl").read_bytes() == (whole / "run" / "evidence.jsonl").read_bytes()
    ours, theirs = (read_run(folder / "run") for folder in (two, whole))
    assert ours.series("train/loss").tolist() == pytest.approx(theirs.series("train/loss").tolist(), rel=1e-4)


def test_a_resume_of_two_processes_is_exact(pair: Pair) -> None:
    whole, stopped = pair
    assert len(list(read_lines(stopped / "run" / "evidence.jsonl"))) == 6
    by_two(f"{stopped / 'stream.yaml'},{stopped / OUT},resume={stopped / OUT / 'checkpoint-4'}")
    for name in ("evidence.jsonl", "metrics.jsonl"):
        assert (stopped / "run" / name).read_bytes() == (whole / "run" / name).read_bytes()
    theirs = weights(whole, 8)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(stopped, 8).items())


ANALYSES = {
    "features": (["--permutations", "100", "--components", "2"], "order"),
    "patching": (["--pairs", "8"], "layers"),
    "das": (["--updates", "2", "--pairs", "12", "--dimensions", "1"], "sites"),
    "gradients": (["--neurons", "4", "--layer", "1"], "cosines"),
}


@pytest.mark.parametrize(
    ("kind", "method"), [*(("gpt_neox", method) for method in ANALYSES), ("llama", "patching"), ("llama", "gradients")]
)
def test_its_checkpoints_go_through_every_analysis(
    wholes: dict[str, Path], kind: str, method: str, tmp_path: Path
) -> None:
    run, (options, table) = wholes[kind] / "run", ANALYSES[method]
    with pytest.raises(SystemExit) as end:
        main(["analyze", method, str(run), "--steps", "all", "--out", str(tmp_path), *options])
    assert end.value.code == 0
    found = pd.read_parquet(tmp_path / f"{method}-{table}.parquet")
    assert set(found["step"]) == {4, 8}
    if method == "gradients":
        assert found["proven"].tolist() == [step < 8 for step in found["step"]]  # step 8 was not trained


@pytest.mark.parametrize("kind", MODELS)
def test_its_checkpoints_score_as_the_run_measured_them(wholes: dict[str, Path], kind: str) -> None:
    run = wholes[kind] / "run"
    steps = find_checkpoint_paths([run])
    assert [step.name for step in steps] == ["checkpoint-4", "checkpoint-8"]
    for step, number in zip(steps, (4, 8), strict=True):
        for result in evaluate_checkpoint(step, find_tasks((), step), torch.device("cpu")):
            assert (result.step, result.trained) == (number, True)
            measured = read_run(run).series(f"eval/{result.task}/{result.half}/loss")
            assert result.loss == pytest.approx(measured[number], rel=1e-5)


def test_the_example_continues_after_a_stop_and_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stop leaves half a checkpoint, as a kill may; the last complete one is resumed."""
    example = runpy.run_path(str(EXAMPLES / "transformers_train.py"))["train"]
    settings = {"save_steps": 4, "use_cpu": True, "disable_tqdm": True}
    folders = [tmp_path / name for name in ("whole", "cut")]
    whole, cut = (str(write_stream(folder, "transformers")) for folder in folders)
    example(whole, **settings)
    example(cut, callbacks=[StopAt(6)], **settings)
    (folders[1] / OUT / "checkpoint-8").mkdir()
    example(cut, **settings)
    for name in ("evidence.jsonl", "metrics.jsonl", "saved.json"):
        assert (folders[1] / "run" / name).read_bytes() == (folders[0] / "run" / name).read_bytes()
    before = (folders[0] / "run" / "evidence.jsonl").read_bytes()
    example(whole, **settings)  # finished: nothing is trained
    assert (folders[0] / "run" / "evidence.jsonl").read_bytes() == before
    with pytest.raises(SystemExit) as end:
        main(["audit", str(folders[1] / "run")])
    assert end.value.code == 0
    assert "identical" in capsys.readouterr().out
