"""What the tests of the scan share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from olmo_inject.config import Experiment
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.scan.piece import ScanResult, scan_piece
from olmo_inject.scan.report import ScanOptions, scan_report, search_experiment
from olmo_inject.scan.scan import ReferenceOptions, prepare_scan
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.tasks import Task
from olmo_inject.vocabulary import Vocabulary

PIECES = st.sampled_from(
    [
        *(
            "12",
            "7",
            "19",
            "3,000",
            " ",
            " + ",
            "+",
            "=",
            " = ",
            "<",
            " > ",
            "-",
            "−",
            ",",
            ".",
            "\u00a0",
            "é",
            "x",
            "(",
            "”",
        ),
        *(" is ", "plus", " plus ", " less than ", "is greater than", "five", " Seven ", "twenty-", "hundred", "\n"),
    ]
)


def scan_here(
    shards: TokenShards,
    known: Vocabulary,
    tasks: Sequence[Task],
    references: ReferenceOptions | None = None,
    texts: TextIndex | None = None,
) -> ScanResult:
    """`scan_corpus` in this process, where a test may change the sizes of its pieces."""
    search, pieces = prepare_scan(shards, known, tasks, references, texts)
    result = search.nothing()
    for piece in pieces:
        result.add(scan_piece(search, piece, lambda done, tokens: None), 1000)
    return result


def scan_experiment(corpus: str, experiment: Experiment, options: ScanOptions) -> dict[str, Any]:
    """The report of `corpus scan`."""
    return scan_report(search_experiment(corpus, experiment, options), options.references)
