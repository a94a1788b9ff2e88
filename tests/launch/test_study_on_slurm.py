"""The commands of docs/cluster.md, in their order, at tiny sizes on a real SLURM."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import string
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from cluster import Cluster, missing, wait_until
from named import write_named

from olmo_inject.cli import main

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "cluster.md"
PATIENCE = 400.0
EXPERIMENT = """
name: tiny
folder: run
model: {name: tiny-8, max_sequence_length: 16, vocab_size: 50304, embedding_size: 50304, eos_token_id: 50279, pad_token_id: 1}
corpus: {folder: stage, seed: 7}
tasks: [{name: less, kind: comparison, options: {n_values: 6}}]
injections: [{task: less, instances_per_batch: 1}]
train:
  max_duration: 6
  save_interval: 3
  eval_interval: 3
  global_train_batch_size: 8
  device_train_microbatch_size: 4
  scheduler: {t_warmup: 2}
"""  # noqa: E501
SWEEP = """
name: tiny
experiment: tiny-experiment.yaml
axes: [{name: rate, key: injections.0.instances_per_batch, values: [1, 2]}]
resources: {gpus_per_node: 0, time: "01:00:00"}
"""
SITE = """
sbatch: [--partition=all]
setup: [export FROM_SITE=yes]
job: {cpus: 1, gpus: 0, time: "01:00:00"}
"""
VARIABLES = {
    "CORPUS": "small.yaml",
    "ROOT": "root",
    "STEPS": "0:7",
    "STAGE": "stage",
    "EXPERIMENT": "tiny-experiment.yaml",
    "SWEEP": "tiny-sweep.yaml",
    "RUNS": "runs/tiny",
    "SPREAD": "--submit slurm --site site.yaml",
}
SMALLER = {
    "stage": "--read stream --file-size 512",
    "features": "--permutations 100 --components 4",
    "patching": "--pairs 8",
    "das": "--updates 2 --pairs 12 --dimensions 1",
    "gradients": "--neurons 4",
}
IN_TWO_PARTS = ("stage", "patching")
MAY_FIND_SOMETHING = ("scan",)  # exit status 1 there says that the corpus holds instances

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


def commands() -> list[list[str]]:
    """The words of each `olmo-inject` line of the page's bash blocks, with this test's values of the variables."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("olmo-inject ")]
    return [shlex.split(string.Template(line).substitute(VARIABLES), comments=True)[1:] for line in lines]


def say(words: list[str]) -> tuple[int, str]:
    """The command here, which saves the time of imports."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0), out.getvalue()


def smaller(words: list[str]) -> list[str]:
    """The command with fewer pairs, updates and parts; the last value of an option counts."""
    more = shlex.split(SMALLER.get(words[1], "")) if "--submit" in words or "--merge" in words else []
    parts = "2" if words[1] in IN_TWO_PARTS else "1"
    return [*words, *more, *(["--parts", parts] if "--submit" in words else [])]


@pytest.mark.timeout(1800)
def test_the_page_from_staging_to_the_report(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    write_named(tmp_path)
    for name, text in (("tiny-experiment.yaml", EXPERIMENT), ("tiny-sweep.yaml", SWEEP), ("site.yaml", SITE)):
        Path(name).write_text(text)

    def idle() -> bool:
        return not cluster.say("squeue", "--noheader").strip()

    begun, killed = time.monotonic(), False
    for words in map(smaller, commands()):
        status, out = say(words)
        print(f"{time.monotonic() - begun:5.0f} s  {shlex.join(words)}: {out.splitlines()[-1] if out else ''}")
        assert status in ((0, 1) if words[1] in MAY_FIND_SOMETHING else (0,)), f"{words}\n{out}\n{logs()}"
        if "--submit" in words and "job array" in out:
            if not killed:  # as an operator or a lost node would; the same command submits it again
                assert "running or queued" in say(words)[1]
                cluster.say("scancel", "--full", out.split("job array ")[1].split(":")[0])
                wait_until(idle, PATIENCE, "jobs to be cancelled")
                killed = "job array" in say(words)[1]
                assert killed
            wait_until(idle, PATIENCE, f"{words}", every=0.5)
            status, out = say(words)
            # What streams in one step and makes parts in the next submits again; every other command has finished.
            assert "nothing is missing" in out or words[1] == "stage", (out, logs())
            wait_until(idle, PATIENCE, f"{words}", every=0.5)
        elif words[:2] == ["sweep", "submit"]:
            wait_until(idle, PATIENCE, "the cells", every=0.5)
            assert say(["sweep", "status", VARIABLES["SWEEP"], "--json"])[1].count('"done"') == 2, logs()
    assert killed

    # Tables of jobs are those of one process.
    for method, table, *options in (("patching", "layers"), ("features", "order", "--steps", "all")):
        of_jobs = pd.read_parquet(f"runs/tiny/analysis/{method}-{table}.parquet")
        for folder in Path("runs/tiny/runs").glob("*/analysis"):
            shutil.rmtree(folder)
        assert say(["analyze", method, VARIABLES["RUNS"], *options, *shlex.split(SMALLER[method])])[0] == 0
        pd.testing.assert_frame_equal(pd.read_parquet(f"runs/tiny/analysis/{method}-{table}.parquet"), of_jobs)

    # The corpus moves.
    shutil.move("stage", "moved")
    assert say(["audit", VARIABLES["RUNS"]])[0] == 2
    assert say(["audit", VARIABLES["RUNS"], "--corpus", "moved"])[0] == 0


def logs() -> str:
    """For a failure's message."""
    found = [Path(folder, name) for folder, _, names in os.walk(".") for name in names if name.endswith(".log")]
    return "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in sorted(found))
