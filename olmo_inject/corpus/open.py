"""A corpus as the command line names it, opened for reading steps of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo_inject.config import CorpusConfig, Described, find_config, load_described, shipped_configs
from olmo_inject.corpus.catalog import read_catalog
from olmo_inject.corpus.order import SHARED_FROM, Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.source import CorpusSource, read_source
from olmo_inject.corpus.sources.cache import cache_folder
from olmo_inject.corpus.staged import STAGE, read_stage
from olmo_inject.errors import UserError
from olmo_inject.yaml_text import read_yaml

STEPS_AT_ONCE = 50_000  # whose order is written as soon as one of them is asked for: 205 MB at 1,024 rows


@dataclass(frozen=True)
class Shape:
    """What decides which sequences a step holds, beside the corpus; None where nothing says it yet."""

    batch_size: int | None = None
    sequence_length: int | None = None
    seed: int | None = None

    def filled(self, other: Shape) -> Shape:
        """This, with what it leaves open taken from `other`."""
        ours, theirs = vars(self), vars(other)
        return Shape(**{name: theirs[name] if ours[name] is None else ours[name] for name in ours})


@dataclass(frozen=True)
class OpenCorpus:
    """Shards and their order.

    Attributes:
        name: as the user gave it.
        config: as an experiment would write it.
        source: what the corpus is.
        shards: its tokens.
        order: position -> sequence.
    """

    name: str
    config: CorpusConfig
    source: CorpusSource
    shards: TokenShards
    order: Order

    def prepare(self, steps: range, option: str) -> None:
        """Make ready to read `steps`, which `option` asked for: a long order is shuffled and written to the cache.

        Raises:
            UserError: steps that are not there; a cache that cannot be written.
        """
        order = self.order
        order.require(steps, np.empty(0, np.int64), option)
        if order.folder is not None:
            whole = -(-steps.stop // STEPS_AT_ONCE) * STEPS_AT_ONCE
            last_epoch = (steps.stop - 1) // order.epoch_steps
            beyond = min(whole, (last_epoch + 1) * order.epoch_steps)
            order.prepare(beyond * order.batch_size, steps.start * order.batch_size)


def open_corpus(name: str, root: str | None, manifest: str | None, shape: Shape) -> OpenCorpus:
    """Open a corpus; `OpenCorpus.prepare` comes before steps of it are read.

    Args:
        name: a name of configs/corpora or a file like them, a corpus folder, a staged corpus, or an experiment.
        root: where a named corpus is.
        manifest: of a named corpus.
        shape: what the user says; the rest comes from the named corpus, the stage or the experiment.

    Raises:
        UserError: no such corpus, or nothing says how long its sequences or large its batches are.
    """
    config, known = resolve(name, root, manifest)
    shape = shape.filled(known).filled(Shape(seed=CorpusConfig().seed))
    if missing := [f"--{key.replace('_', '-')}" for key, value in vars(shape).items() if value is None]:
        raise UserError(f"{' and '.join(missing)}: {name} does not say {'it' if len(missing) == 1 else 'them'}")
    assert shape.batch_size is not None
    assert shape.sequence_length is not None
    assert shape.seed is not None
    source = read_source(config)
    shards = source.open_shards(shape.sequence_length)
    folder = cache_folder() / "order" if len(shards) >= SHARED_FROM else None
    order = source.open_order(shards, shape.batch_size, shape.seed, folder)
    return OpenCorpus(name, config, source, shards, order)


def shape_of(experiment: Described) -> Shape:
    """An experiment's."""
    return Shape(experiment.batch_size, experiment.sequence_length, experiment.corpus.seed)


def resolve(name: str, root: str | None, manifest: str | None) -> tuple[CorpusConfig, Shape]:
    """A corpus as an experiment would write it, and what is known of its shape; arguments as `open_corpus`'s.

    Raises:
        UserError: no such corpus, or arguments that do not belong to it.
    """
    path = Path(name)
    if path.is_dir():
        if root is not None or manifest is not None:
            raise UserError(f"--root and --manifest: for a named corpus, and {name} is a folder")
        if not (path / STAGE).is_file():
            return CorpusConfig(folder=name), Shape()
        stage = read_stage(path)
        return CorpusConfig(folder=name), Shape(stage.batch_size, stage.sequence_length, stage.seed)
    if path.is_file() and not _is_catalog(path):
        experiment = load_described(path)
        config = experiment.corpus
        config.root, config.manifest = root or config.root, manifest or config.manifest
        return config, shape_of(experiment)
    shipped = shipped_configs("corpora")
    if not path.exists() and path.stem not in shipped:
        raise UserError(f"{name} does not exist, as a folder or a file, nor as a shipped corpus: {', '.join(shipped)}")
    entry = read_catalog(find_config(name, "corpora")).entry
    shape = Shape(entry.batch_size, entry.sequence_length, entry.seed)
    return CorpusConfig(name=name, root=root, manifest=manifest), shape


def _is_catalog(path: Path) -> bool:
    return "folders" in read_yaml(path)
