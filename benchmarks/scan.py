"""Search a corpus, against `np.bincount` over the same tokens, on one core each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import in_turns, paired_ratio, print_table, timed
from olmo_inject.corpus.from_text.sample import build_sample
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.scan.piece import scan_piece
from olmo_inject.scan.scan import ReferenceOptions, prepare_scan
from olmo_inject.scan.text_index import TextIndex
from olmo_inject.tasks import Task, TaskConfig, build_tasks
from olmo_inject.vocabulary import Vocabulary

TOKENS = 50_000_000  # the real text again and again, shuffled by document
PIECE = 2**21
ROUNDS = 5
PROSE = ["boolq", "hellaswag"]
TEXTS, TEXT_TOKENS = 1000, 64


def main() -> None:
    """Print tokens per second and ratios."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, sources in (("prose", PROSE), ("all sources", None)):
            corpus = build_sample(Path(folder) / name, tokenizer="dolma", sources=sources, progress=False)
            vocabulary = corpus.load_vocabulary()
            text = np.concatenate([np.fromfile(shard.path, corpus.dtype) for shard in corpus.shards])
            documents = np.split(text, np.flatnonzero(text == vocabulary.eos_id) + 1)
            drawn = np.random.default_rng(0).integers(0, len(documents), TOKENS * len(documents) // len(text))
            tokens = np.concatenate([documents[i] for i in drawn])
            path = Path(folder) / f"{name}.npy"
            tokens.tofile(path)
            shards = TokenShards([path], 4096, vocab_size=vocabulary.size)
            configs = [TaskConfig("less", "comparison"), TaskConfig("plus", "modular_addition")]
            tasks = build_tasks(configs, vocabulary)
            texts = TextIndex([texts_of(documents, Path(folder), vocabulary)], near=0.5)
            rivals = {
                "np.bincount": partial(timed, partial(count_all, tokens)),
                "two tasks": _scanner(shards, vocabulary, tasks, None),
                f"{TEXTS} texts of {TEXT_TOKENS} tokens": _scanner(shards, vocabulary, [], None, texts),
                "two tasks and both references": _scanner(shards, vocabulary, tasks, ReferenceOptions()),
            }
            seconds = in_turns(rivals, ROUNDS)
            for rival, values in seconds.items():
                times = 1 / paired_ratio(values, seconds["np.bincount"])
                rows.append([rival, name, f"{len(tokens) / min(values) / 1e6:,.0f} M", f"{times:.2f}"])
    print_table(
        "Scan of Dolma-tokenized text on one core (to reach: at most 3 times np.bincount: so it is in prose; in all "
        "sources one token in 4,600 begins an addition, and each is read by Python in some 40 microseconds)",
        ["searched for", "in", "tokens/s", "times np.bincount"],
        rows,
    )


def count_all(tokens: np.ndarray) -> np.ndarray:
    """In pieces, as `np.bincount` makes each an array four times as large; the fastest of the sizes tried."""
    counts = np.zeros(2**16, np.int64)
    for start in range(0, len(tokens), PIECE):
        counts += np.bincount(tokens[start : start + PIECE], minlength=2**16)
    return counts


def texts_of(documents: list[np.ndarray], folder: Path, vocabulary: Vocabulary) -> Task:
    """A task of texts from the corpus, every other token pair of which is swapped, so that they are near at best."""
    rng, lines = np.random.default_rng(1), dict[str, None]()  # some documents begin alike
    for number in rng.permutation(len(documents)):
        text = documents[number][:-1][:TEXT_TOKENS].copy()
        if len(text) == TEXT_TOKENS:
            text[1::16], text[2::16] = text[2::16].copy(), text[1::16].copy()
            lines[json.dumps({"text": text.tolist()})] = None
        if len(lines) == TEXTS:
            break
    (folder / "texts.jsonl").write_text("\n".join(lines))
    config = TaskConfig("texts", "texts", options={"file": str(folder / "texts.jsonl")})
    return build_tasks([config], vocabulary)[0]


def _scanner(shards, vocabulary, tasks, references, texts=None) -> Callable[[], float]:
    search, pieces = prepare_scan(shards, vocabulary, tasks, references, texts)
    return lambda: timed(lambda: [scan_piece(search, piece, lambda done, tokens: None) for piece in pieces])


if __name__ == "__main__":
    main()
