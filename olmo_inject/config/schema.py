"""What an experiment of ai2-olmo's trainer may say."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo_inject.config.olmo_settings import ModelConfig, SchedulerType, TrainConfig
from olmo_inject.config.parts import (
    CorpusConfig,
    Described,
    EvaluationConfig,
    InjectionConfig,
    Loading,
    ReferenceConfig,
)
from olmo_inject.errors import UserError
from olmo_inject.paths import expanded
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import TaskConfig
from olmo_inject.vocabulary import Vocabulary

EMBEDDING_MULTIPLE = 128  # to which OLMo's embeddings are rounded up
UNENDING = (SchedulerType.constant, SchedulerType.constant_with_warmup, SchedulerType.inverse_sqrt_with_warmup)


@dataclass
class CheckpointConfig:
    """Checkpoints beside those at every `train.save_interval` steps and at the end; they are all kept."""

    also: StepSelection = field(default_factory=StepSelection)
    weights_only: bool = False
    """Whether those beside the interval hold only the weights: enough for analysis, not for a resume."""


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
class SafetyConfig:
    """When to stop a run that has gone wrong."""

    spike_factor: float | None = 10.0
    """Stop when the loss exceeds its running mean by this many running standard deviations; None: never."""
    spike_window: int = 200
    """Steps over which mean and deviation run; nothing is judged before as many have passed."""


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
        """Whether more steps leave those before them as they are: the schedule does not end with the run."""
        return self.train.scheduler.name in UNENDING or self.train.scheduler.t_max is not None

    def expand_paths(self) -> None:
        """As `Described`'s, with those that ai2-olmo's trainer takes.

        Raises:
            UserError: a variable that is not set.
        """
        super().expand_paths()
        self.start_from = self.start_from and expanded(self.start_from, "start_from")
        if (masks := self.train.data.label_mask_paths) is not None:
            self.train.data.label_mask_paths = [expanded(path, "train.data.label_mask_paths") for path in masks]

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Refuse a model whose ids are not the tokenizer's, in one line that says all there is to change."""
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
