"""Open a corpus by the name that the command line gives, and read steps of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from olmo_inject.config import CorpusConfig, Described, load_described, shipped_configs
from olmo_inject.corpus.kinds import Corpus, Shape, find_corpus
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import UserError
from olmo_inject.utils.yaml_text import read_yaml


@dataclass(frozen=True)
class OpenCorpus:
    """A corpus with its shards and order open.

    Attributes:
        name: as the user gave it.
        source: the corpus.
        shards: its tokens.
        order: maps positions to sequences.
    """

    name: str
    source: Corpus
    shards: TokenShards
    order: Order

    def prepare(self, steps: range, option: str) -> None:
        """Make `steps` ready to read: a long order is shuffled and written to the cache.

        Args:
            steps: plan steps.
            option: the command-line option that asks for them, for messages.

        Raises:
            UserError: the corpus does not hold the steps; the cache cannot be written.
        """
        order = self.order
        order.require(steps, np.empty(0, np.int64), option)
        order.prepare(steps.stop * order.batch_size, steps.start * order.batch_size)


def open_corpus(
    name: str, root: str | None, manifest: str | None, shape: Shape, run: Described | None = None
) -> OpenCorpus:
    """Open a corpus. Call `OpenCorpus.prepare` before reading steps of it.

    Args:
        name: a name of configs/corpora or a file like them, a corpus folder, a staged corpus, or an experiment.
        root: where a named corpus is.
        manifest: the manifest file of a named corpus.
        shape: what the user gives; unknowns are taken from the experiment or the corpus.
        run: an experiment whose steps are meant: it decides how many of the sequences it trains on.

    Raises:
        UserError: no such corpus; sequence length or batch size are not known; fewer sequences than `run` trains on.
    """
    config, experiments = corpus_config(name, root, manifest)
    if run is not None:
        config = replace(config, sequences=run.corpus.sequences)
    corpus = find_corpus(config)
    shape = shape.filled(experiments).filled(corpus.shape).filled(Shape(seed=CorpusConfig().seed))
    if missing := [f"--{key.replace('_', '-')}" for key, value in vars(shape).items() if value is None]:
        raise UserError(f"{' and '.join(missing)}: {name} does not say {'it' if len(missing) == 1 else 'them'}")
    assert shape.batch_size is not None
    assert shape.sequence_length is not None
    assert shape.seed is not None
    shards = corpus.open_shards(shape.sequence_length)
    return OpenCorpus(name, corpus, shards, corpus.open_order(shards, shape.batch_size, shape.seed))


def shape_of(experiment: Described) -> Shape:
    """The shape that an experiment gives."""
    return Shape(experiment.batch_size, experiment.sequence_length, experiment.corpus.seed)


def corpus_config(name: str, root: str | None, manifest: str | None) -> tuple[CorpusConfig, Shape]:
    """The configuration of a corpus, and its shape if `name` is an experiment.

    Args:
        name: as in `open_corpus`.
        root: as in `open_corpus`.
        manifest: as in `open_corpus`.

    Raises:
        UserError: there is no such corpus, or `root` or `manifest` does not belong to it.
    """
    path = Path(name)
    if path.is_dir():
        if root is not None or manifest is not None:
            raise UserError(f"--root and --manifest: for a named corpus, and {name} is a folder")
        return CorpusConfig(folder=name), Shape()
    if _is_experiment(name):
        experiment = load_described(name)
        config = experiment.corpus
        if config.name is None and (root is not None or manifest is not None):
            raise UserError(f"--root and --manifest: for a named corpus, which the corpus of {name} is not")
        config.root, config.manifest = root or config.root, manifest or config.manifest
        return config, shape_of(experiment)
    shipped = shipped_configs("corpora")
    if not path.exists() and path.stem not in shipped:
        raise UserError(
            f"{name} does not exist, as a folder or a file, nor as a shipped experiment or corpus: {', '.join(shipped)}"
        )
    return CorpusConfig(name=name, root=root, manifest=manifest), Shape()


def _is_experiment(name: str) -> bool:
    """Whether `name` is an experiment: a file that is not of the catalog, or the name of a shipped one."""
    path = Path(name)
    if path.is_file():
        return "folders" not in read_yaml(path)  # a file of the catalog has this key
    return name in shipped_configs("experiments")
