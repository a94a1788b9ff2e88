"""Reference tasks while training: what an independent computation gives, on any number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Ranks, alone
from runs import LENGTH, VOCAB, metrics, same_bits, series, train_on_rank, write_experiment

from olmo_inject.config import load_experiment
from olmo_inject.corpus.references import Reference, ReferenceItem
from olmo_inject.errors import UserError
from olmo_inject.runs.read import load_run
from olmo_inject.training.checkpoints.weights import assign_weights, load_weights
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.olmo_config import model_config
from olmo_inject.training.parallel import build_model
from olmo_inject.training.run import runtime_config
from olmo_inject.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

NAMES = ("R_add", "R_cmp")


def reference_items(n: int, seed: int) -> tuple[ReferenceItem, ...]:
    """Contexts of 1 to 20 tokens, more than a row can hold among them, and answers of 1 to 4."""
    rng = np.random.default_rng(seed)
    lengths = zip(rng.integers(1, 21, n).tolist(), rng.integers(1, 5, n).tolist(), strict=True)
    draw = [(rng.integers(2, VOCAB, a).tolist(), rng.integers(2, 12, b).tolist()) for a, b in lengths]
    return tuple(ReferenceItem(tuple(context), tuple(answer)) for context, answer in draw)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    path = write_experiment(folder)
    vocabulary = Vocabulary.without_tokenizer(VOCAB, 0, 1)
    lines = ["references:"]
    for seed, name in enumerate(NAMES):
        # 23 and 7: neither fills the last pass of any number of ranks.
        Reference(name, vocabulary.fingerprint, reference_items((23, 7)[seed], seed)).save(folder / f"{name}.json")
        lines.append(f"  - {{name: {name}, path: {folder / name}.json}}")
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(path: Path, ranks: Ranks) -> Path:
    assert "trained to step 12" in ranks.run(1, train_on_rank, path)[0]
    return path.parent / "run"


def test_scores_are_what_one_item_at_a_time_gives(finished: Path, path: Path) -> None:
    experiment = load_experiment(path)
    for name in NAMES:
        assert list(series(finished, f"eval/{name}/reference/loss")) == [0, 4, 8, 12]
        reference = Reference.load(path.parent / f"{name}.json")
        for step in (8, 12):
            with alone() as device:
                model, dist_model = build_model(runtime_config(experiment, 1), device)
                assign_weights(dist_model, load_weights(finished / f"step{step}", model_config(experiment.model)))
                total, tokens, right = 0.0, 0, 0
                for item in reference.items:
                    context = item.context[-(LENGTH - len(item.answer)) :]
                    ids = torch.tensor([context + item.answer])
                    with torch.no_grad():
                        scores = torch.log_softmax(model(ids).logits[0, len(context) - 1 : -1].double(), -1)
                    target = torch.tensor(item.answer)
                    total -= scores.gather(-1, target[:, None]).sum().item()
                    tokens += len(item.answer)
                    right += bool((scores.argmax(-1) == target).all())
            assert series(finished, f"eval/{name}/reference/loss")[step] == pytest.approx(total / tokens, rel=1e-5)
            accuracy = series(finished, f"eval/{name}/reference/accuracy")[step]
            assert accuracy == pytest.approx(right / len(reference.items))
    counts = {line["name"]: line["count"] for line in metrics(finished) if "/reference/" in line["name"]}
    items = reference_items(23, 0)
    assert counts["eval/R_add/reference/loss"] == sum(len(item.answer) for item in items)
    assert counts["eval/R_add/reference/accuracy"] == 23


@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (3, "fsdp")])
def test_any_number_of_ranks_gives_the_same(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks, world: int, strategy: str
) -> None:
    run = tmp_path / "run"
    more = (f"folder={run}", f"train.distributed_strategy={strategy}", "train.max_duration=8")
    ranks.run(world, train_on_rank, path, *more)
    for name in NAMES:
        for what in ("loss", "accuracy"):
            metric = f"eval/{name}/reference/{what}"
            ours, theirs = series(run, metric), series(finished, metric)
            assert ours == pytest.approx({step: theirs[step] for step in ours}, rel=1e-4)
            assert list(ours) == [0, 4, 8]


def test_references_leave_the_run_alone(finished: Path, path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """Without them, weights and all else are the same to the bit; added later, they are measured from there on."""
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, f"folder={run}", "references=[]", "train.max_duration=8")
    ranks.run(1, train_on_rank, path, f"folder={run}")
    assert list(series(run, "eval/R_add/reference/loss")) == [12]
    assert series(run, "eval/R_add/reference/loss")[12] == series(finished, "eval/R_add/reference/loss")[12]
    for folder in (run, shutil.copytree(finished, tmp_path / "copy")):
        log = folder / "metrics.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if "/reference/" not in line))
    assert same_bits(run, tmp_path / "copy", 12)


def test_a_run_keeps_what_it_was_evaluated_on(finished: Path, path: Path) -> None:
    kept = Reference.load(finished / "references" / "R_add.json")
    given = Reference.load(path.parent / "R_add.json")
    assert [item.answer for item in kept.items] == [item.answer for item in given.items]
    assert load_run(finished).experiment.reference_paths == {name: str(path.parent / f"{name}.json") for name in NAMES}


def test_at_most_so_many_items(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    run = tmp_path / "run"
    ranks.run(1, train_on_rank, path, f"folder={run}", "train.max_duration=1", "evaluation.max_instances=5")
    counts = {line["name"]: line["count"] for line in metrics(run) if "/reference/" in line["name"]}
    assert counts["eval/R_add/reference/accuracy"] == counts["eval/R_cmp/reference/accuracy"] == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("references=[{name: R 1, path: x}]", "references: name 'R 1' must be a word"),
        ("references=[{name: less, path: x}]", "references: name 'less' is used twice"),
        ("references=[{name: R}]", "references: R: path is missing"),
        ("references=[{name: R, path: nothing.json}]", "nothing.json does not exist"),
        (
            "corpus.pad_token_id=2 model.pad_token_id=2",
            "R_add.json was written with another tokenizer than the corpus's",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_starts(change: str, said: str, path: Path, tmp_path: Path) -> None:
    changes = change.split(" ") if change.startswith("corpus") else [change]
    with pytest.raises(UserError) as refused:
        check_before_launch(load_experiment(path, [*changes, f"folder={tmp_path / 'new'}"]), 1, "cpu", False)
    assert said in str(refused.value)
    assert not list(tmp_path.iterdir())
