"""What an experiment says of its stream, whichever trainer reads it. Nothing here needs ai2-olmo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo_inject.injection import Bernoulli, Burst, Frequency, Schedule, Uniform, parse_fraction, windowed
from olmo_inject.injection.frequency import UNITS
from olmo_inject.paths import expanded
from olmo_inject.randomness import key
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import TaskConfig
from olmo_inject.vocabulary import Vocabulary

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
class EvaluationConfig:
    """Held-out evaluation beside that at every `train.eval_interval` steps, at the start and at the end."""

    also: StepSelection = field(default_factory=StepSelection)
    batch_size: int = 512
    """Instances per forward pass on each rank."""
    max_instances: int | None = None
    """Evaluate at most this many of each half, the same ones each time; None: all."""


@dataclass
class ReferenceConfig:
    """A natural task out of a corpus, made by `olmo-inject corpus scan --references`, evaluated beside the injected."""

    name: str = ""
    """What it is called in metrics and figures; unique, and no task's."""
    path: str = ""
    """Its file."""


@dataclass(frozen=True)
class Loading:
    """What is asked of the loader of our corpus beside the tokens, in ai2-olmo's terms."""

    label_mask_paths: list[str] | None = None
    instance_filter: Any = None
    document_lengths: bool = False


class Described:
    """What experiments of all trainers have: the stream, where the run is kept, and how tasks are evaluated."""

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
        """Refuse a model whose ids are not the corpus's.

        Raises:
            UserError: what to change.
        """

    @property
    def run_folder(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    @property
    def reference_paths(self) -> dict[str, str]:
        """The files of `references` by name."""
        return {reference.name: reference.path for reference in self.references}

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

    def expand_paths(self) -> None:
        """Replace `~` and `$NAME` in every path that it holds (a task's file is expanded when it is loaded).

        Raises:
            UserError: a variable that is not set.
        """
        self.folder = expanded(self.folder, "folder")
        corpus = self.corpus
        for name in ("name", "root", "manifest", "folder", "tokenizer"):
            if (path := getattr(corpus, name)) is not None:
                setattr(corpus, name, expanded(path, f"corpus.{name}"))
        corpus.paths = [expanded(path, "corpus.paths") for path in corpus.paths]
        for reference in self.references:
            reference.path = expanded(reference.path, f"references: {reference.name}: path")
