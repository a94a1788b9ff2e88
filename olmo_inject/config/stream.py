"""An experiment with another training loop than ai2-olmo's: transformers', OLMo-core 3's, or your own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from olmo_inject.config.checks import check_corpus, check_stream
from olmo_inject.config.ranges import RANGES, check_ranges
from olmo_inject.config.schema import CorpusConfig, Described, EvaluationConfig, InjectionConfig, ReferenceConfig
from olmo_inject.errors import UserError
from olmo_inject.tasks import TaskConfig, check_name
from olmo_inject.utils.number_ranges import COUNT, INT32, MOST_ROWS, Range
from olmo_inject.vocabulary import Vocabulary

OLMO = "olmo"  # the trainer of experiments that do not name one


@dataclass
class StreamExperiment(Described):
    """What is injected where, for a trainer that has its own settings. Load with `load_described`."""

    trainer: str = ""
    """The training loop: `transformers`, `olmo_core`, `torch`, or a word of your own."""
    name: str = "experiment"
    folder: str = "runs/${name}"
    """The run folder."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Without name, folder and paths, another loader reads the rows, and this only describes the ids."""
    tasks: list[TaskConfig] = field(default_factory=list)
    injections: list[InjectionConfig] = field(default_factory=list)
    plan_seed: int = 0
    """Decides which rows are injected."""
    batch_size: int = 0
    """Rows in a global batch, over all processes and with gradient accumulation."""
    sequence_length: int = 0
    """Tokens in a row."""
    steps: int = 0
    """Optimizer steps."""
    eval_interval: int = 1000
    """Steps between evaluations of the tasks, which also happen at the start and at the end."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    model: dict[str, Any] = field(default_factory=dict)
    """Filled in by the trainer's adapter. A resume with another model is refused."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Filled in by the trainer's adapter: settings that decide what is computed."""
    references: list[ReferenceConfig] = field(default_factory=list)
    """Must be empty, since only ai2-olmo's trainer evaluates references."""

    @property
    def has_host(self) -> bool:
        """Whether the rows come from our corpus, so that they can be recomputed."""
        return bool(self.corpus.name or self.corpus.folder or self.corpus.paths)

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Check that the model has as many ids as the corpus, or more.

        Raises:
            UserError: it has fewer.
        """
        if vocabulary.size > self.model.get("vocab_size", vocabulary.size):
            raise UserError(
                f"the model has {self.model['vocab_size']} ids, tokenizer {vocabulary.identifier} has {vocabulary.size}"
            )


_SHARED = {key: allowed for key, allowed in RANGES.items() if key.split(".")[0] in ("corpus", "evaluation")}
_RANGES = _SHARED | {
    "batch_size": Range(1, MOST_ROWS),
    "sequence_length": COUNT,
    "steps": Range(1, INT32),
    "eval_interval": COUNT,
}


def check_stream_experiment(experiment: StreamExperiment) -> None:
    """Validate the experiment.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    check_name(experiment.trainer, "trainer")
    check_ranges(experiment, _RANGES, {})
    experiment.evaluation.also.check("evaluation.also")
    if experiment.references:
        raise UserError("references: only ai2-olmo's trainer evaluates them; remove this key")
    check_corpus(experiment, may_be_none=True)
    check_stream(experiment, "sequence_length")
