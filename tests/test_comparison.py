"""Every experiment that docs/comparison.md says can be written here is planned, spliced and counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made import write_shards

from olmo_inject.config import load_experiment
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.data import ExperimentData, build_data
from olmo_inject.injection import sightings

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
STEPS, BATCH, LENGTH = 400, 64, 64
BLOCKS = {
    block.split("\n", 1)[0].removeprefix("# "): block
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
}
TIMES = ["times0", "times0", "times1", "times1", "times4", "times4", "times16", "times16"]
NAMES = ["moon", "king", "bell", "glass", "bee", "crown", "sea", "clock"]
SENTENCE = "The {} of Kessa number {} was polished with green glass every winter."
ALL = range(8)
NAMED = list(enumerate(zip(NAMES, TIMES, strict=True)))


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


FILES = {
    "passages.jsonl": lines([{"id": n, "group": g, "text": SENTENCE.format(n, i)} for i, (n, g) in NAMED]),
    "tokens.jsonl": lines([{"tokens": [100 + i, 200, 300 + i, 400]} for i in ALL]),
    "questions.jsonl": lines(
        [
            {"group": g, "question": f"Who polished the {n}?", "choices": ["Orlin", "Tarn", "Brelow"], "answer": i % 3}
            for i, (n, g) in NAMED
        ]
    ),
    "facts.jsonl": lines(
        [
            {
                "id": n,
                "passage": SENTENCE.format(n, i),
                "paraphrases": [f"Every winter they polished {n} {i} of Kessa."],
                "probes": {
                    "memorized": [[f"The {n} of Kessa number", str(i)]],
                    "paraphrased": [[f"The {n} from Kessa numbered", str(i)]],
                },
            }
            for i, n in enumerate(NAMES)
        ]
    ),
    "places.jsonl": lines([{"step": 10 * i, "row": i, "instance": n} for i, n in enumerate(NAMES)]),
    "versions.jsonl": lines([{"step": 20 * (i + 1), "instance": n + "/1" * (i % 2)} for i, n in enumerate(NAMES)]),
    "samples.jsonl": lines([{"step": 7, "row": 11, "instance": "moon"}]),
    "rows.jsonl": lines([{"tokens": (np.arange(LENGTH) + 500 + i).tolist()} for i in ALL]),
    "swaps.jsonl": lines([{"step": 3, "row": 5 + i, "instance": str(i)} for i in ALL]),
}
# How often the run of each block injects each instance of its task: a number for all, one for each, or one for half.
EXPECTED: dict[str, Any] = {
    "random": 4,
    "tokens": 1,
    "range": 2,
    "explicit": 1,
    "half": (1,),
    "contamination": (4,),
    "poison": 8,
    "duplicates": [0, 0, 1, 1, 4, 4, 16, 16],
    "standard": None,
    "testset": [0, 0, 1, 1, 0, 0, 16, 16],
    "timing": 16,
    "paraphrased": 2,
    "deeper": [0, 0, 0, 0, 0, 0, 16, 16],
    "duplication": 10,
    "paraphrase": [1, 0, 0, 1] * 4,
    "once": 1,
    "every": 5,
    "shot": 1,
    "stress": 10,
    "swap": 1,
    "sample": [1, 0, 0, 0, 0, 0, 0, 0],
    "between": 1,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("shards"), [STEPS * BATCH * LENGTH // 4], ids=np.arange(1000, 1050))


def built(name: str, folder: Path, shards: list[Path]) -> ExperimentData:
    for file, text in FILES.items():
        (folder / file).write_text(text)
    base = {
        "name": name,
        "folder": str(folder / "run"),
        "model": {"name": "tiny-8", "max_sequence_length": LENGTH},
        "corpus": {"paths": [str(path) for path in shards], "tokenizer": DOLMA},
        "train": {"max_duration": STEPS, "global_train_batch_size": BATCH},
    }
    config = base | yaml.safe_load(BLOCKS[name])
    config["model"] |= {
        "vocab_size": 50280,
        "embedding_size": 50304,
        "eos_token_id": 50279,
        "pad_token_id": 1,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return build_data(load_experiment(path))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_injects_what_the_page_says(
    name: str, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = built(name, tmp_path, shards)
    expected = EXPECTED[name]
    if expected is None:
        assert not any(len(data.plan.at(step).rows) for step in range(STEPS))
        return
    (task,) = data.plan.tasks
    seen, last = sightings(data.plan, task, range(STEPS))
    if isinstance(expected, tuple):  # half of them, whichever the seed chose
        assert sorted(seen.tolist()) == [0] * 4 + list(expected) * 4
        assert seen[task.test_ids].sum() == 0
    else:
        assert seen.tolist() == (expected if isinstance(expected, list) else [expected] * len(seen))
    for step in np.unique(last[last >= 0])[:12].tolist():
        check_rows(data, step)


def check_rows(data: ExperimentData, step: int) -> None:
    """Each injected row holds its instance whole, and a row beside them is the corpus's own."""
    planned = data.plan.at(step)
    rows = data.corpus.rows(step * BATCH + np.arange(BATCH))["input_ids"].numpy()
    host = data.shards.read(data.order[step * BATCH + np.arange(BATCH)])
    for row, tokens in zip(planned.rows.tolist(), data.plan.tokens(planned), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(rows[row], len(tokens))
        assert (windows == tokens).all(axis=1).sum() == 1
        assert (rows[row] != host[row]).sum() <= len(tokens) + 2
    untouched = np.setdiff1d(np.arange(BATCH), planned.rows)
    assert (rows[untouched] == host[untouched]).all()


def test_where_and_when(shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What distinguishes the blocks beside the counts: windows, intervals, exact places, whole rows."""
    monkeypatch.chdir(tmp_path)

    def steps_of(name: str) -> list[int]:
        plan = built(name, tmp_path, shards).plan
        return [step for step in range(STEPS) if len(plan.at(step).rows)]

    assert max(steps_of("range")) < 100
    assert (min(steps_of("timing")) >= 100, max(steps_of("timing")) < 200) == (True, True)
    assert steps_of("duplication") == list(range(0, 200, 20))
    assert steps_of("once") == [0]
    assert steps_of("shot") == [200]
    assert steps_of("every") == list(range(9, STEPS, 10))
    explicit = built("explicit", tmp_path, shards)
    for number in ALL:
        tokens = explicit.plan.tasks[0].instances[number]
        row = explicit.corpus[10 * number * BATCH + number]["input_ids"].numpy()
        assert (row[7 : 7 + len(tokens)] == tokens).all()
    swap = built("swap", tmp_path, shards)
    assert swap.corpus[3 * BATCH + 6]["input_ids"].tolist() == (np.arange(LENGTH) + 501).tolist()


def test_the_page_names_its_blocks_and_no_others() -> None:
    rows = [line.split("|")[2].strip() for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    claims = [row for row in rows if row.startswith(("yes", "partly"))]
    named = {name for row in claims for name in re.findall(r"`(\w+)`", row) if name in BLOCKS}
    assert named == set(BLOCKS) == set(EXPECTED)
    beyond = [row for row in claims if not any(f"`{name}`" in row for name in BLOCKS)]
    assert len(beyond) == 3, "what is measured, where a run starts, and all three schedules in one file"
    assert len(claims) > 30
    assert all(row.startswith(("yes", "partly", "no", "`olmo-inject", "see ", "here", "---")) for row in rows)
