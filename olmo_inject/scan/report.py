"""The report of a scan as plain values: counts, places with their training steps, frequencies, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.config import Experiment
from olmo_inject.corpus.open import corpus_config
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.provenance import origins_at, provenance_path
from olmo_inject.corpus.references import Reference
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.data import TaskPlan, build_plan, rows_of
from olmo_inject.errors import UserError
from olmo_inject.injection import Frequency, sightings
from olmo_inject.injection.frequency import UNITS
from olmo_inject.scan.clean_seeds import clean_seeds
from olmo_inject.scan.finder import FoundStatements
from olmo_inject.scan.hits import Place, TaskHits
from olmo_inject.scan.piece import ScanResult
from olmo_inject.scan.scan import ReferenceOptions, count_instances, scan_corpus
from olmo_inject.scan.statements import KINDS
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.scan.text_report import FindPlaces, texts_record
from olmo_inject.tasks import Task
from olmo_inject.utils.parts_of_work import Spreading, in_one_process
from olmo_inject.vocabulary import Vocabulary

AS_CONFIGURED = "-"  # stands for the corpus that the experiment names
IN_SHARDS = "offset: token of the shard; sequence: its number in the corpus; step: the first that reads it"
IN_STAGE = (
    "offset: token of the stage's file; sequence: its number in the stage; step: the one that reads it. Each sequence "
    "is searched by itself, since its neighbours in the stage are not its neighbours in the text"
)
NO_DOCUMENTS = {
    "stage": "not known in a stage; `olmo-inject corpus show` of the staged corpus names the shard of a step's row",
    "remote": "not looked up for remote shards",
    "local": "not known: there is no .csv.gz beside the shards",
}


@dataclass(frozen=True)
class ScanOptions:
    """What a scan does besides counting.

    Attributes:
        near: share of a text's runs of tokens that a near occurrence has; None: a half.
        references: folder for the reference tasks; None: do not look for statements.
        reference: how statements are kept.
        resample: draws of new seeds to try for tasks with natural instances.
        processes: number of processes that search.
        progress: whether to show progress.
        root: where a named corpus is; by default as its file or the experiment says.
        manifest: manifest file of a named corpus; by default where `corpus manifest` writes it.
        spreading: as in `scan_corpus`.
    """

    near: float | None = None
    references: Path | None = None
    reference: ReferenceOptions = field(default_factory=ReferenceOptions)
    resample: int = 0
    processes: int = 1
    progress: bool = False
    root: str | None = None
    manifest: str | None = None
    spreading: Spreading = in_one_process


@dataclass(frozen=True)
class Searched:
    """What was found, before anything is written.

    Attributes:
        corpus: as the user gave it.
        experiment: with the corpus that was searched.
        planned: its tasks and corpus.
        shards: of the corpus.
        order: of the experiment's run; None if the corpus is too small for it.
        texts: that were searched for; None if there are none.
        result: of the search.
        clean_seeds: seed of each task without natural instances, if they were asked for.
        first_step: where the experiment's run begins.
    """

    corpus: str
    experiment: Experiment
    planned: TaskPlan
    shards: TokenShards
    order: Order | None
    texts: TextIndex | None
    result: ScanResult
    clean_seeds: dict[str, int] | None
    first_step: int = 0


def search_experiment(
    corpus: str, experiment: Experiment, options: ScanOptions, tasks: list[Task] | None = None, first_step: int = 0
) -> Searched:
    """Search a corpus for the tasks of an experiment.

    Args:
        corpus: a name as in `open_corpus`, or `-` for the experiment's own corpus.
        experiment: gives tasks, order, batch size and sequence length.
        options: what else to do.
        tasks: tasks that are already built; None builds them.
        first_step: where its run begins; not 0 if it branches off another, whose injections do not count.

    Raises:
        UserError: as in `build_plan` and `scan_corpus`; no clean seeds.
    """
    experiment = _with_corpus(experiment, corpus, options)
    planned = build_plan(experiment, tasks)
    source, vocabulary = planned.source, planned.source.vocabulary
    shards, order = source.open_shards(experiment.sequence_length), None
    if not shards.is_running_text or len(shards) >= max(experiment.batch_size, experiment.corpus.sequences or 0):
        order = source.open_order(shards, experiment.batch_size, experiment.corpus.seed)
    how = {"processes": options.processes, "progress": options.progress, "spreading": options.spreading}
    references = options.reference if options.references is not None else None
    texts_of = [task for task in planned.tasks if not task.is_triples]
    if options.near is not None and not texts_of:
        raise UserError("--near: only with tasks of texts, and the experiment has none")
    texts = TextIndex(texts_of, 0.5 if options.near is None else options.near) if texts_of else None
    triples = [task for task in planned.tasks if task.is_triples]
    result = scan_corpus(shards, vocabulary, triples, references, texts, **how)
    seeds = None
    if options.resample:
        clean = clean_seeds(
            experiment.tasks,
            vocabulary,
            _of_triples(planned.tasks, [hits.instances for hits in result.tasks]),
            lambda tasks: _natural_instances(shards, vocabulary, tasks, **how),
            options.resample,
            cache(partial(rows_of, source, experiment.sequence_length)),  # opened once, not for each draw
        )
        seeds = {config.name: config.seed for config in clean}
    return Searched(corpus, experiment, planned, shards, order, texts, result, seeds, first_step)


def scan_report(searched: Searched, references: Path | None) -> dict[str, Any]:
    """The report of a search as plain values. Writes the reference tasks.

    Args:
        searched: from `search_experiment`.
        references: folder for the reference tasks; None: write none.

    Raises:
        UserError: they cannot be written.
    """
    experiment, planned, shards, result = searched.experiment, searched.planned, searched.shards, searched.result
    report = {
        "corpus": planned.source.location if searched.corpus == AS_CONFIGURED else searched.corpus,
        "tokens": result.tokens,
        "sequences": len(shards),
        "sequence_length": experiment.sequence_length,
        "steps": experiment.steps,
        "where": IN_SHARDS if shards.is_running_text else IN_STAGE,
        "documents": _no_documents(shards),
        "tasks": _tasks_record(searched, partial(_places, searched)),
    }
    if references is not None:
        report["references"] = _save_references(references, experiment, planned, shards, result)
    if searched.clean_seeds is not None:
        report["clean_seeds"] = searched.clean_seeds
    return report


def _with_corpus(experiment: Experiment, corpus: str, options: ScanOptions) -> Experiment:
    """The experiment with the corpus to scan; the seed and the sequences of the order stay the experiment's."""
    if corpus != AS_CONFIGURED:
        config, _ = corpus_config(corpus, options.root, options.manifest)
        own = experiment.corpus
        return replace(experiment, corpus=replace(config, seed=own.seed, sequences=own.sequences))
    if (options.root or options.manifest) and experiment.corpus.name is None:
        raise UserError("--root and --manifest: for a named corpus, and the experiment's is none")
    ours = experiment.corpus
    config = replace(ours, root=options.root or ours.root, manifest=options.manifest or ours.manifest)
    return replace(experiment, corpus=config)


def _natural_instances(shards: TokenShards, vocabulary: Vocabulary, tasks: Sequence[Task], **how: Any) -> list[int]:
    """As `count_instances`; 0 for tasks whose instances are texts, which no seed changes."""
    triples = [task for task in tasks if task.is_triples]
    return _of_triples(tasks, count_instances(shards, vocabulary, triples, **how))


def _of_triples(tasks: Sequence[Task], counts: Sequence[int]) -> list[int]:
    """The counts of tasks of pairs with labels, with 0 for the tasks between them."""
    left = iter(counts)
    return [next(left) if task.is_triples else 0 for task in tasks]


def _tasks_record(searched: Searched, places: FindPlaces) -> dict[str, Any]:
    """What was found of each task."""
    planned, result, out = searched.planned, searched.result, dict[str, Any]()
    triples = iter(result.tasks)
    for task in planned.tasks:
        if task.is_triples:
            out[task.name] = _triples_record(task, next(triples), planned.source.vocabulary, places)
            continue
        assert searched.texts is not None
        assert result.texts is not None
        injected, _ = sightings(planned.plan, task, range(searched.first_step, searched.experiment.steps))
        out[task.name] = texts_record(task, injected, searched.texts, result.texts, places)
    return out


def _triples_record(task: Task, hits: TaskHits, vocabulary: Vocabulary, places: FindPlaces) -> dict[str, Any]:
    """Counts and places of a task of pairs with labels."""
    ids = np.unique(task.tokens).tolist()
    kinds_and_places = [("instance", place) for place in hits.instance_places] + [
        ("pair", place) for place in hits.pair_places
    ]
    return {
        "seed": task.config.seed,
        "instances": hits.instances,
        "pairs": hits.pairs,
        "token_occurrences": int(hits.tokens.sum()),
        "tokens": [
            {"id": i, "text": vocabulary.token_text(i), "count": count}
            for i, count in zip(ids, hits.tokens.tolist(), strict=True)
        ],
        "places": places(kinds_and_places),
    }


def _places(searched: Searched, places: Sequence[tuple[str, Place]]) -> list[dict[str, Any]]:
    """Shard, offset, sequence, first training step, text and document of places of several kinds."""
    experiment, shards, order = searched.experiment, searched.shards, searched.order
    length, text = experiment.sequence_length, searched.planned.source.vocabulary.token_text
    out: list[dict[str, Any]] = []
    for kind, (shard, offset, tokens) in places:
        row = offset // length
        # A sequence holds the whole hit if the hit ends in the sequence it begins in, and not in the shard's remainder.
        whole = (offset + len(tokens) - 1) // length == row and row < int(np.diff(shards.offsets)[shard])
        out.append(
            {
                "kind": kind,
                "shard": shards.paths[shard].name,
                "offset": offset,
                "sequence": int(shards.offsets[shard]) + row if whole else None,
                "tokens": list(tokens),
                "text": [text(token) for token in tokens],
            }
        )
    sequences = [place["sequence"] for place in out if place["sequence"] is not None]
    positions = {} if order is None else order.first_positions(sequences, experiment.steps)
    for place in out:
        position = positions.get(place["sequence"])
        place["step"], place["row"] = (None, None) if position is None else divmod(position, experiment.batch_size)
    if shards.is_local:
        _add_documents(shards, [place for _, place in places], out)
    return out


def _no_documents(shards: TokenShards) -> str | None:
    """Why the documents at the places are not known; None if they are."""
    if not shards.is_running_text:
        return NO_DOCUMENTS["stage"]
    if not shards.is_local:
        return NO_DOCUMENTS["remote"]
    return None if any(provenance_path(path).is_file() for path in shards.paths) else NO_DOCUMENTS["local"]


def _add_documents(shards: TokenShards, hit_places: list[Place], records: list[dict[str, Any]]) -> None:
    """Add to each record the document at its place, where provenance says it."""
    for shard in {place.shard for place in hit_places}:
        here = [i for i, place in enumerate(hit_places) if place.shard == shard]
        origins = origins_at(shards.paths[shard], [hit_places[i].offset for i in here])
        for i, origin in zip(here, origins, strict=True):
            if origin is not None:
                records[i]["document"] = {"id": origin.id, "source": origin.source, "line": origin.line}


def _save_references(
    folder: Path, experiment: Experiment, planned: TaskPlan, shards: TokenShards, result: ScanResult
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for kind in KINDS:
        statements = result.statements.get(kind, FoundStatements())
        per_token = Fraction(statements.true, result.tokens)
        frequency = Frequency.in_unit("per_token", per_token, experiment.batch_size, experiment.sequence_length)
        values = [frequency.per_batch, frequency.per_sequence, frequency.per_token]
        exact = dict(zip(UNITS, map(str, values), strict=True))
        path = folder / f"{kind}.json"
        out[kind] = {
            "true": statements.true,
            "false": statements.false,
            "unaligned": statements.unaligned,
            "frequency": exact,
            "items": len(statements.items),
            "file": str(path) if statements.items else None,
        }
        if statements.items:
            counts = {"statements": statements.true, "tokens": result.tokens}
            fingerprint = planned.source.vocabulary.fingerprint
            Reference(kind, fingerprint, tuple(statements.items), shards.fingerprint(), exact | counts).save(path)
    return out
