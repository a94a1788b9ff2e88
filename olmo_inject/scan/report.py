"""What a scan found, as plain values: counts, places with their training steps, frequencies, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from olmo_inject.config import Experiment
from olmo_inject.corpus.open import resolve
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.provenance import origins_at, provenance_path
from olmo_inject.corpus.references import Reference
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import LocalSource
from olmo_inject.corpus.staged import StagedShards, StageOrder
from olmo_inject.data import TaskPlan, build_plan
from olmo_inject.errors import UserError
from olmo_inject.injection import Frequency
from olmo_inject.injection.frequency import UNITS
from olmo_inject.scan.clean_seeds import clean_seeds
from olmo_inject.scan.finder import FoundStatements
from olmo_inject.scan.hits import Place, TaskHits
from olmo_inject.scan.scan import ReferenceOptions, ScanResult, count_instances, scan_corpus
from olmo_inject.scan.statements import KINDS
from olmo_inject.tasks import Task

AS_CONFIGURED = "-"  # instead of a corpus: the one that the experiment names
IN_SHARDS = "offset: token of the shard; sequence: its number in the corpus; step: the first that reads it"
IN_STAGE = (
    "offset: token of the stage's part; sequence: its number in the stage; step: the one that reads it. Each sequence "
    "is searched by itself: those beside it in the stage are not beside it in the text"
)
NO_DOCUMENTS = {
    "stage": "not known of a stage; `olmo-inject corpus show` of its source names the shard of a step's row",
    "remote": "not looked up in remote shards",
    "local": "not known, as there is no .csv.gz beside the shards",
}
_CHUNK = 2**22  # positions of the order looked through at once


@dataclass(frozen=True)
class ScanOptions:
    """What a scan does beside counting.

    Attributes:
        references: folder to write the reference tasks to; None: do not look for any.
        reference: how they are kept.
        resample: draws of new seeds to try for tasks that are found; 0: none.
        processes: how many search.
        progress: show a line of progress.
        root: where a named corpus is, if its file or the experiment does not say it.
        manifest: of a named corpus, likewise.
    """

    references: Path | None = None
    reference: ReferenceOptions = field(default_factory=ReferenceOptions)
    resample: int = 0
    processes: int = 1
    progress: bool = False
    root: str | None = None
    manifest: str | None = None


def scan_experiment(
    corpus: str, experiment: Experiment, options: ScanOptions, tasks: list[Task] | None = None
) -> dict[str, Any]:
    """Scan a corpus for the tasks of an experiment; the report as it is written to JSON.

    Args:
        corpus: whatever `open_corpus` takes, or `-` for the experiment's own.
        experiment: its tasks, order, batch size and sequence length count.
        options: what else to do.
        tasks: as `build_plan`'s.

    Raises:
        UserError: as `build_plan` and `scan_corpus`; no clean seeds.
    """
    experiment = _with_corpus(experiment, corpus, options)
    what = build_plan(experiment, tasks)
    vocabulary = what.source.vocabulary
    shards = what.source.open_shards(experiment.sequence_length)
    order = None  # of a corpus too small to be trained on
    if isinstance(shards, StagedShards) or len(shards) >= experiment.batch_size:
        order = what.source.open_order(shards, experiment.batch_size, experiment.corpus.seed)

    how = {"processes": options.processes, "progress": options.progress}
    references = options.reference if options.references is not None else None
    result = scan_corpus(shards, vocabulary, what.tasks, references, **how)
    report = {
        "corpus": _name(what) if corpus == AS_CONFIGURED else corpus,
        "tokens": result.tokens,
        "sequences": len(shards),
        "sequence_length": experiment.sequence_length,
        "steps": experiment.steps,
        "where": IN_SHARDS if what.source.stage is None else IN_STAGE,
        "documents": _no_documents(shards),
        "tasks": _tasks_record(experiment, what, shards, order, result),
    }
    if options.references is not None:
        report["references"] = _save_references(options.references, experiment, what, shards, result)
    if options.resample:
        found = [hits.instances for hits in result.tasks]
        clean = clean_seeds(
            experiment.tasks,
            vocabulary,
            found,
            lambda tasks: count_instances(shards, vocabulary, tasks, **how),
            options.resample,
        )
        report["clean_seeds"] = {config.name: config.seed for config in clean}
    return report


def first_steps(order: Order, sequences: Sequence[int], steps: int) -> dict[int, int]:
    """The first of `steps` training steps that reads each of `sequences`; those that none reads are left out."""
    wanted = np.unique(np.array(sequences, np.int64))
    if isinstance(order, StageOrder):
        at = order.stage.positions(wanted) // order.batch_size
        return {s: step for s, step in zip(wanted.tolist(), at.tolist(), strict=True) if step < steps}
    out: dict[int, int] = {}
    total = steps * order.batch_size
    for start in range(0, total if len(wanted) else 0, _CHUNK):
        read = order[np.arange(start, min(start + _CHUNK, total), dtype=np.int64)]
        places = np.flatnonzero(np.isin(read, wanted))
        for place in places.tolist():
            out.setdefault(int(read[place]), (start + place) // order.batch_size)
        if len(out) == len(wanted):
            break
    return out


def _with_corpus(experiment: Experiment, corpus: str, options: ScanOptions) -> Experiment:
    """The experiment, of another corpus than its own if one is given; the order's seed stays its own."""
    if corpus != AS_CONFIGURED:
        config, _ = resolve(corpus, options.root, options.manifest)
        return replace(experiment, corpus=replace(config, seed=experiment.corpus.seed))
    if (options.root or options.manifest) and experiment.corpus.name is None:
        raise UserError("--root and --manifest: for a named corpus, and the experiment's is none")
    ours = experiment.corpus
    config = replace(ours, root=options.root or ours.root, manifest=options.manifest or ours.manifest)
    return replace(experiment, corpus=config)


def _name(what: TaskPlan) -> str:
    source = what.source
    if source.stage is not None:
        return str(source.stage.folder)
    return str(source.paths[0].parent) if source.named is None else f"{source.named.name} at {source.root}"


def _tasks_record(
    experiment: Experiment, what: TaskPlan, shards: TokenShards, order: Order | None, result: ScanResult
) -> dict[str, Any]:
    text = what.source.vocabulary.token_text
    out = {}
    for task, hits in zip(what.tasks, result.tasks, strict=True):
        ids = np.unique(task.tokens).tolist()
        out[task.name] = {
            "seed": task.config.seed,
            "instances": hits.instances,
            "pairs": hits.pairs,
            "token_occurrences": int(hits.tokens.sum()),
            "tokens": [
                {"id": i, "text": text(i), "count": count} for i, count in zip(ids, hits.tokens.tolist(), strict=True)
            ],
            "places": _places(experiment, what, shards, order, hits),
        }
    return out


def _places(
    experiment: Experiment, what: TaskPlan, shards: TokenShards, order: Order | None, hits: TaskHits
) -> list[dict[str, Any]]:
    """Instances first, then pairs: shard, offset, sequence, first training step, text and document."""
    length, text = experiment.sequence_length, what.source.vocabulary.token_text
    known = [("instance", place) for place in hits.instance_places] + [("pair", place) for place in hits.pair_places]
    out: list[dict[str, Any]] = []
    for kind, (shard, offset, tokens) in known:
        row = offset // length
        # A sequence holds it only if it ends in the one where it begins, which is not the shard's remainder.
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
    steps = {} if order is None else first_steps(order, sequences, experiment.steps)
    for place in out:
        place["step"] = steps.get(place["sequence"])
        if isinstance(order, StageOrder) and place["step"] is not None:
            place["row"] = int(order.stage.positions(np.array([place["sequence"]]))[0]) % order.batch_size
    if isinstance(shards.source, LocalSource):
        _add_documents(shards, [place for _, place in known], out)
    return out


def _no_documents(shards: TokenShards) -> str | None:
    """Why places do not name their documents; None where they do."""
    if isinstance(shards, StagedShards):
        return NO_DOCUMENTS["stage"]
    if not isinstance(shards.source, LocalSource):
        return NO_DOCUMENTS["remote"]
    return None if any(provenance_path(path).is_file() for path in shards.paths) else NO_DOCUMENTS["local"]


def _add_documents(shards: TokenShards, known: list[Place], places: list[dict[str, Any]]) -> None:
    for shard in {place.shard for place in known}:
        mine = [i for i, place in enumerate(known) if place.shard == shard]
        for i, origin in zip(mine, origins_at(shards.paths[shard], [known[i].offset for i in mine]), strict=True):
            if origin is not None:
                places[i]["document"] = {"id": origin.id, "source": origin.source, "line": origin.line}


def _save_references(
    folder: Path, experiment: Experiment, what: TaskPlan, shards: TokenShards, result: ScanResult
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for kind in KINDS:
        found = result.statements.get(kind, FoundStatements())
        per_token = Fraction(found.true, result.tokens)
        frequency = Frequency.in_unit("per_token", per_token, experiment.batch_size, experiment.sequence_length)
        values = [frequency.per_batch, frequency.per_sequence, frequency.per_token]
        exact = dict(zip(UNITS, map(str, values), strict=True))
        path = folder / f"{kind}.json"
        out[kind] = {
            "true": found.true,
            "false": found.false,
            "unaligned": found.unaligned,
            "frequency": exact,
            "items": len(found.items),
            "file": str(path) if found.items else None,
        }
        if found.items:
            counts = {"statements": found.true, "tokens": result.tokens}
            fingerprint = what.source.vocabulary.fingerprint
            Reference(kind, fingerprint, tuple(found.items), shards.fingerprint(), exact | counts).save(path)
    return out
