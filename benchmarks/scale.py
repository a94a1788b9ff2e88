"""What one of 1,024 ranks does until its first batch, with Dolma's 1,033 shards: `python -m benchmarks scale`.

The shards are sparse files of the official number and, in equal parts, size: 440M sequences, 3.6 TB. Two ranks are run
in turn, as processes of their own: rank 0, which looks at every shard, and another one, which takes what rank 0 found.
Both call what training calls, without collectives and without a model. Their file-system calls are counted by strace,
in a run that is not timed.

`python -m benchmarks scale --sequences 2000000` is a quick one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import own_bytes, print_table

RANKS = 1024
SEQUENCES, LENGTH, BATCH, STEPS = 440_000_000, 4096, 1024, 50_000
OTHER = 517  # some rank that is neither the first of all nor of its node
ROLES = {"rank 0": 0, f"rank {OTHER}": OTHER}
EXPERIMENT = """
extends: {experiments}/paper-tcmp.yaml
model: 4B
folder: {folder}/run
corpus: {{name: dolma-v1_7, root: {folder}/dolma}}
"""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale")
    parser.add_argument("--sequences", type=int, default=SEQUENCES)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)  # FOLDER RANK: what this file starts itself with
    arguments = parser.parse_args(sys.argv[2:])
    if arguments.rank is not None:
        print(json.dumps(as_rank(Path(arguments.rank[0]), int(arguments.rank[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OLMO_INJECT_CACHE"] = str(folder / "cache")
        _write_corpus(folder, arguments.sequences)
        cold = _start(folder, 0)
        warm = {role: _start(folder, rank) for role, rank in ROLES.items()}
        _print_times(arguments.sequences, cold, warm)
        _print_calls({role: _calls(folder, rank) for role, rank in ROLES.items()})
    from benchmarks.fsdp import print_memory  # imports torch, which ranks do in their own time

    print_memory("4B", (8, 16, 32, 64))


def as_rank(folder: Path, rank: int) -> dict[str, Any]:
    """Do what a rank does until it has its first batch; returns seconds by part, and what it holds at the end."""
    begun = time.perf_counter()
    seconds: dict[str, float] = {}

    def done(part: str) -> None:
        seconds[part] = time.perf_counter() - begun - sum(seconds.values())

    from olmo_inject.config import load_experiment
    from olmo_inject.corpus.order import Stamp
    from olmo_inject.data import build_data
    from olmo_inject.training.callbacks.evidence import Evidence
    from olmo_inject.training.loader import build_loader
    from olmo_inject.training.run import runtime_config

    done("import")
    before = own_bytes("RssAnon")
    broadcast, experiment = folder / "broadcast.json", load_experiment(folder / "experiment.yaml")
    from_rank_0 = None if rank == 0 else json.loads(broadcast.read_text())
    data = build_data(experiment, checked_sizes=None if from_rank_0 is None else from_rank_0["sizes"])
    done("tasks, plan and shards")
    if from_rank_0 is None:
        data.order.prepare(len(data.corpus))
        broadcast.write_text(json.dumps({"sizes": data.shards.sizes, "checked": list(data.order.checked)}))
    else:
        data.order.checked = {Stamp(*stamp) for stamp in from_rank_0["checked"]}
    done("order")
    cfg = runtime_config(experiment, RANKS)
    batches = iter(build_loader(data.corpus, cfg, rank, RANKS))
    batch = next(batches)
    done("first batch")
    for _ in range(20):
        next(batches)
    seconds["a batch"] = (time.perf_counter() - begun - sum(seconds.values())) / 20
    positions = np.arange(rank, BATCH, RANKS)
    assert batch["index"].tolist() == positions.tolist()
    sums: dict[str, float | int] = dict.fromkeys(("rows", "targets", "overrides", "tokens", "tcmp/labels"), 123456)
    line = json.dumps(Evidence(None).record(STEPS - 1, sums)) + "\n"
    return {
        "seconds": seconds,
        "memory": own_bytes("RssAnon") - before,
        "peak": own_bytes("VmHWM"),
        "handles": sum("/dolma/" in name for name in _open_files()),
        "order": next((folder / "cache" / "order").glob("*.u32")).stat().st_size,
        "evidence": len(line),
    }


def _open_files() -> list[str]:
    return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


def _write_corpus(folder: Path, sequences: int) -> None:
    """Sparse shards, with tokens only where the sample and the first steps read."""
    from olmo_inject.config import configs_folder
    from olmo_inject.corpus.catalog import find_named

    named, _ = find_named("dolma-v1_7", str(folder / "dolma"))
    each = -(-sequences // len(named.shards))
    for name in set(named.shards):
        path = folder / "dolma" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(each * LENGTH * 2)
    n = each * len(named.shards)
    text = EXPERIMENT.format(experiments=configs_folder() / "experiments", folder=folder)
    (folder / "experiment.yaml").write_text(text)
    tokens = np.random.default_rng(0).integers(2, 50_000, LENGTH, dtype=np.uint16).tobytes()
    for sequence in np.linspace(0, n - 1, 256).astype(np.int64).tolist():
        with (folder / "dolma" / named.shards[sequence // each]).open("r+b") as file:
            file.seek(sequence % each * LENGTH * 2)
            file.write(tokens)


def _command(folder: Path, rank: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks", "scale", "--rank", str(folder), str(rank)]


def _start(folder: Path, rank: int) -> dict[str, Any]:
    begun = time.perf_counter()
    said = subprocess.run(_command(folder, rank), check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1]) | {"all": time.perf_counter() - begun}


def _calls(folder: Path, rank: int) -> Counter[str] | None:
    """The file-system calls of a rank by what they concern; None without strace."""
    if shutil.which("strace") is None:
        return None
    log = folder / "strace.log"
    strace = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", str(log)]
    subprocess.run([*strace, *_command(folder, rank)], check=True, capture_output=True)
    places = {f"{folder}/dolma": "shards", f"{folder}/cache": "cache", str(folder): "run and experiment"}
    counts: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        counts[next((what for place, what in places.items() if place in line), "Python and libraries")] += 1
    return counts


def _print_times(sequences: int, cold: dict[str, Any], warm: dict[str, dict[str, Any]]) -> None:
    columns = {"rank 0, nothing cached": cold} | warm
    rows = [[part, *(f"{each['seconds'][part]:.3g} s" for each in columns.values())] for part in cold["seconds"]]
    rows += [
        ["whole process, 21 batches", *(f"{each['all']:.3g} s" for each in columns.values())],
        ["memory of its own for these", *(f"{each['memory'] / 1e6:.0f} MB" for each in columns.values())],
        ["peak of the process", *(f"{each['peak'] / 1e6:.0f} MB" for each in columns.values())],
        ["open shards after 21 batches", *(f"{each['handles']}" for each in columns.values())],
    ]
    print_table(
        f"Until a first batch: {sequences / 1e6:.0f}M sequences, 1,033 shards, {RANKS:,} ranks, batches of {BATCH:,}",
        ["", *columns],
        rows,
    )
    line, order = cold["evidence"], cold["order"]
    print(
        f"The stored order has {order / 1e6:.0f} MB, once for all runs; a node reads 4 KB of it a step.\n"
        f"Evidence: {line} bytes a step, {line * STEPS / 1e6:.1f} MB in {STEPS:,} steps, by rank 0 alone.\n"
    )


def _print_calls(calls: dict[str, Counter[str] | None]) -> None:
    if any(counted is None for counted in calls.values()):
        print("strace is not installed: file-system calls are not counted\n")
        return
    first, other = (counted for counted in calls.values() if counted is not None)
    rows = [
        [place, f"{first[place]:,}", f"{other[place]:,}", f"{first[place] + (RANKS - 1) * other[place]:,}"]
        for place in ("shards", "cache", "run and experiment", "Python and libraries")
    ]
    print_table(
        "File-system calls until the first batches (open, stat, readlink, ...)", ["of", *calls, "all ranks"], rows
    )


if __name__ == "__main__":
    main()
