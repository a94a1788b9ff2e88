"""Prove and measure one GPU in ten minutes, offline: `python -m benchmarks gpu`, or `make gpu`.

First the tests marked `cuda`, then a table of training steps beside what `cost` estimates, then the analyses of one
checkpoint. What would not end within the budget is left out and named. `--device cpu` does the same at tiny sizes.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from analysis.methods import das, patching
from analysis.methods.features import features_method
from analysis.methods.scores import scores_method
from analysis.read.checkpoints import StoredModel
from benchmarks.analysis import PAIRS, SHORT_DAS
from launch.cost.accelerators import CORE, Accelerator, read_accelerators
from launch.cost.calibrate import utilization
from launch.cost.cost import estimate
from olmo_inject.config import Experiment, GradientConfig, configs_folder, load_experiment
from olmo_inject.data import build_data
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task, TaskConfig
from olmo_inject.training.checkpoints.transformers import transformers_config
from olmo_inject.training.gradients import batch_gradients
from olmo_inject.training.loader import build_loader
from olmo_inject.training.olmo_config import model_config
from olmo_inject.training.parallel import choose_device, destroy, init_process_group
from olmo_inject.training.run import runtime_config
from olmo_inject.training.timed_steps import TimedSteps, time_steps
from olmo_inject.utils.files import write_json, write_text
from olmo_inject.vocabulary import Vocabulary

BUDGET = 600.0  # seconds for everything
FOR_TESTS = 0.4  # at most this part of it
STEPS = 3  # timed, after one that is not
MICRO_BATCHES = 4  # in a step
FIRST_CASE = 60.0  # seconds that a case is taken to need before one was measured


@dataclass(frozen=True)
class Case:
    """One way to train one size.

    Attributes:
        model: name of the size.
        rows: of a micro-batch.
        injected: whether an eighth of the rows get an instance.
        compiled: whether the model goes through `torch.compile`.
    """

    model: str
    rows: int
    injected: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Sizes:
    """What is measured on a kind of device.

    Attributes:
        cases: in the order in which they are measured.
        length: tokens of a row; None: the models'.
        analysed: name of the size whose checkpoint is analysed.
        values: of the tasks that are analysed.
        backend: of `torch.compile`.
    """

    cases: tuple[Case, ...]
    length: int | None
    analysed: str
    values: int
    backend: str = "inductor"


def cases(models: dict[str, tuple[int, ...]]) -> tuple[Case, ...]:
    """Each size plain, injected, at its other micro-batches, and compiled; the plain ones first, compiled ones last."""
    plain = [Case(name, rows[0]) for name, rows in models.items()]
    others = [Case(name, more) for name, rows in models.items() for more in rows[1:]]
    injected = [replace(case, injected=True) for case in plain]
    return (*plain, *injected, *others, *(replace(case, compiled=True) for case in injected))


ON = {
    "cuda": Sizes(cases({"4M": (8, 32), "20M": (8, 16), "300M": (4, 8), "1B": (2, 4), "4B": (2, 1)}), None, "1B", 100),
    "cpu": Sizes(cases({"tiny-8": (2, 4), "tiny-16": (2,)}), 32, "tiny-16", 12, "eager"),
}


class Clock:
    """The budget, and what was left out of it."""

    def __init__(self, budget: float) -> None:
        self.begun, self.budget = time.monotonic(), budget
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.budget - (time.monotonic() - self.begun)

    def has(self, seconds: float, what: str) -> bool:
        """Whether so many seconds are left; else `what` is noted as left out."""
        if self.left >= seconds:
            return True
        self.left_out.append(what)
        return False


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu at tiny sizes")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for gpu.md and gpu.json")
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    arguments = parser.parse_args(sys.argv[2:])
    try:
        measured = measure(arguments.device, arguments.budget, tests=not arguments.no_tests)
    except UserError as error:
        raise SystemExit(f"gpu: {error}") from None
    write_json(arguments.out / "gpu.json", measured)
    write_text(arguments.out / "gpu.md", page(measured))
    print(page(measured))


def measure(device: str, budget: float = BUDGET, *, tests: bool = True) -> dict[str, Any]:
    """Everything, as JSON.

    Args:
        device: cuda or cpu.
        budget: seconds.
        tests: whether to run the tests first.

    Raises:
        UserError: there is no such device.
    """
    clock = Clock(budget)
    kind = choose_device(device).type
    name = torch.cuda.get_device_name() if kind == "cuda" else "cpu"
    tested = run_tests(kind, FOR_TESTS * budget) if tests else "not run"
    chosen = init_process_group(kind)
    try:
        with tempfile.TemporaryDirectory() as folder:
            steps = list(_training(Path(folder), ON[kind], chosen, clock))
            analyses = list(_analyses(Path(folder), ON[kind], chosen, clock))
    finally:
        destroy()
    return {
        "device": name,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - clock.begun, 1),
        "tests": tested,
        "training": steps,
        "analyses": analyses,
        "left_out": clock.left_out,
    }


def run_tests(kind: str, seconds: float) -> str:
    """The last line of the tests of this device, or why there is none."""
    chosen = ["-m", "cuda"] if kind == "cuda" else ["-k", "cpu", "tests/training/test_on_device.py"]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"FAILED: not done after {seconds:.0f} s"
    lines = ended.stdout.strip().splitlines() or [ended.stderr.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "; ".join([*failed, lines[-1].strip("= ")])


def accelerator_of(device: torch.device) -> Accelerator | None:
    """The entry of configs/accelerators.yaml for the device: by name, and if several match by memory."""
    table = read_accelerators(configs_folder() / "accelerators.yaml")
    if device.type == "cpu":
        return table[CORE]
    card = torch.cuda.get_device_properties(device)
    named = [entry for name, entry in table.items() if name.partition("-")[0] in card.name.lower()]
    return min(named, key=lambda entry: abs(entry.memory - card.total_memory), default=None)


def _experiment(folder: Path, case: Case, sizes: Sizes) -> Experiment:
    length = sizes.length or 4096
    batch = MICRO_BATCHES * case.rows
    shard = folder / "random.npy"
    if not shard.exists():
        np.random.default_rng(0).integers(2, 512, (2048, length), dtype=np.uint16).tofile(shard)
    file = folder / "experiment.yaml"
    injections = f"[{{task: tcmp, instances_per_batch: {max(1, batch // 8)}}}]" if case.injected else "[]"
    file.write_text(
        f"name: {case.model}\nfolder: {folder}/run\nmodel: {case.model}\n"
        f"tasks: [{{name: tcmp, kind: comparison, options: {{n_values: {sizes.values}}}}}]\ninjections: {injections}\n"
    )
    model = load_experiment(file, ["corpus.folder=never"]).model
    ids = (model.vocab_size, model.eos_token_id, model.pad_token_id)
    given = dict(zip(("vocab_size", "eos_token_id", "pad_token_id"), ids, strict=True)) | {"paths": f"[{shard}]"}
    overrides = [f"corpus.{key}={value}" for key, value in given.items()]
    overrides += [f"model.max_sequence_length={length}", f"train.global_train_batch_size={batch}"]
    overrides += [f"train.device_train_microbatch_size={case.rows}", f"train.max_duration={STEPS + 1}"]
    if case.compiled:
        overrides.append(f"train.compile={{backend: {sizes.backend}}}")
    return load_experiment(file, overrides)


def _training(folder: Path, sizes: Sizes, device: torch.device, clock: Clock) -> Iterator[dict[str, Any]]:
    slowest: dict[str, float] = {}
    for case in sizes.cases:
        how = f"{', injected' if case.injected else ''}{', compiled' if case.compiled else ''}"
        about = f"{case.model} of {case.rows} rows{how}"
        # A size needs about what it needed before; a compiled one twice that, and a minute for the compiler.
        needed = slowest.get(case.model, FIRST_CASE if device.type == "cuda" else 1.0)
        if not clock.has((2 * needed + 60 if case.compiled and device.type == "cuda" else needed) + 5, about):
            continue
        begun = time.monotonic()
        experiment = _experiment(folder, case, sizes)
        try:
            timed = time_steps(experiment, device, steps=STEPS, checkpoint=False, near=folder)
            yield asdict(case) | _row(experiment, device, timed)
        except torch.OutOfMemoryError:
            yield asdict(case) | {"error": "out of memory"} | _estimates(experiment, device)
        except Exception as error:  # such as a compiler that this machine lacks; the other cases go on
            yield asdict(case) | {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        slowest[case.model] = max(slowest.get(case.model, 0.0), time.monotonic() - begun)


def _row(experiment: Experiment, device: torch.device, timed: TimedSteps) -> dict[str, Any]:
    tokens = experiment.batch_size * experiment.sequence_length
    used = accelerator_of(device)
    mfu = None if used is None else utilization(experiment, used, timed)
    row = {
        "step_seconds": timed.step_seconds,
        "tokens_per_second": tokens / timed.step_seconds,
        "mfu": mfu,
        "peak_memory": timed.peak_memory,
        "loader_share": _loader_seconds(experiment) / timed.step_seconds,
    }
    return row | _estimates(experiment, device)


def _estimates(experiment: Experiment, device: torch.device) -> dict[str, Any]:
    used = accelerator_of(device)
    if used is None:
        return {}
    cost = estimate(experiment, used)
    return {"estimated_step_seconds": cost.step_seconds, "estimated_memory": cost.memory.total}


def _loader_seconds(experiment: Experiment) -> float:
    """Seconds in which the loader makes a batch, if nothing else is done."""
    batches = iter(build_loader(build_data(experiment).corpus, runtime_config(experiment, 1), 0, 1))
    next(batches)
    begun = time.perf_counter()
    made = sum(1 for _ in islice(batches, STEPS))
    return (time.perf_counter() - begun) / made


def _analyses(folder: Path, sizes: Sizes, device: torch.device, clock: Clock) -> Iterator[dict[str, Any]]:
    experiment = _experiment(folder, Case(sizes.analysed, 2, injected=True), sizes)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(transformers_config(model_config(experiment.model))).eval()
    vocabulary = Vocabulary.without_tokenizer(experiment.model.vocab_size, experiment.model.eos_token_id, 1)
    options = {"n_values": sizes.values}
    kinds = ("comparison", "modular_addition")
    tasks = [Task.build(TaskConfig(kind, kind, options=options), vocabulary) for kind in kinds]
    checkpoint = StoredModel(folder / "never-read", None, None, tasks, folder)
    works: dict[str, Callable[[], object]] = {
        method.name: partial(method.compute, model, checkpoint, lambda share: None)
        for method in (scores_method(), features_method(), patching.method(PAIRS))
    }
    works["gradients"] = partial(_gradients, model, experiment)
    works[das.METHOD] = partial(das.search, model, tasks[0], SHORT_DAS)
    for name, work in works.items():
        if clock.has(20 if device.type == "cuda" else 1, f"analysis {name}"):
            yield {"model": sizes.analysed, "method": name} | _measured(work, device)


def _gradients(model: PreTrainedModel, experiment: Experiment) -> None:
    data = build_data(experiment)
    positions = np.arange(experiment.batch_size)
    batch = data.corpus.rows(positions)
    spans = data.corpus.spans(positions)
    batch_gradients(model, GradientConfig(), batch, spans, data.plan.tasks, data.tasks, experiment.train)


def _measured(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    try:
        work()
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    if cuda:
        torch.cuda.synchronize(device)
    return {
        "seconds": time.perf_counter() - begun,
        "peak_memory": torch.cuda.max_memory_allocated(device) if cuda else None,
    }


def page(measured: dict[str, Any]) -> str:
    """The results as Markdown."""
    steps = [
        [
            row["model"],
            str(row["rows"]),
            "yes" if row["injected"] else "no",
            "yes" if row["compiled"] else "no",
            *(
                [row["error"], "", "", "", "", "", _gigabytes(row.get("estimated_memory"))]
                if "error" in row
                else [
                    _seconds(row["step_seconds"]),
                    _seconds(row.get("estimated_step_seconds")),
                    f"{row['tokens_per_second']:,.0f}",
                    "" if row["mfu"] is None else f"{100 * row['mfu']:.0f}%",
                    f"{100 * row['loader_share']:.1f}%",
                    _gigabytes(row["peak_memory"]),
                    _gigabytes(row.get("estimated_memory")),
                ]
            ),
        ]
        for row in measured["training"]
    ]
    analyses = [
        [row["model"], row["method"], row.get("error") or _seconds(row["seconds"]), _gigabytes(row.get("peak_memory"))]
        for row in measured["analyses"]
    ]
    columns = "size,rows of a micro-batch,injected,compiled,step,estimated,tokens/s,MFU,loader's share,memory,estimated"
    left_out = "; ".join(measured["left_out"]) or "nothing"
    return "\n".join(
        [
            "# On a GPU",
            "",
            f"Written by `make gpu` on {measured['date']}: {measured['device']}, torch {measured['torch']}, "
            f"{measured['seconds']} s in all. A step has {MICRO_BATCHES} micro-batches. Estimates are those of "
            "`olmo-inject cost`. Memory is the peak; on a CPU it is the whole process's.",
            "",
            f"Tests: {measured['tests']}.",
            "",
            f"Left out for want of time: {left_out}.",
            "",
            *_table(columns.split(","), steps),
            "",
            "Analyses of one checkpoint with random weights: default options, but for `das`, of which one task is "
            "searched in one dimension with few updates.",
            "",
            *_table(["size", "method", "time", "peak memory"], analyses),
            "",
        ]
    )


def _table(columns: Sequence[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} s"


def _gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
