"""A run from a staged corpus is the run from its source, to the bit; and may move between them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ranks import Ranks, alone
from runs import BATCH, same_bits, train_on_rank

from olmo_inject.audit import audit_run
from olmo_inject.config import load_experiment
from olmo_inject.corpus.kinds import Shape
from olmo_inject.corpus.open import open_corpus
from olmo_inject.corpus.staged import RankRange
from olmo_inject.corpus.staging import open_stager
from olmo_inject.errors import UserError
from olmo_inject.training.checks import check_before_launch
from olmo_inject.training.timed_steps import time_steps

pytestmark = pytest.mark.slow


def staged(path: Path, to: Path, steps: range, ranks: RankRange | None = None) -> tuple[str, ...]:
    """Stage the experiment's corpus; what makes a run read it."""
    opened = open_corpus(str(path), None, None, Shape())
    stager = open_stager(
        opened.shards, opened.order, opened.source.vocabulary, steps, to, ranks=ranks, file_bytes=1000, read="stream"
    )
    assert stager.run(lambda n: None)
    return (f"corpus.folder={to}", "corpus.paths=[]", "corpus.vocab_size=null")


def test_losses_weights_and_evidence_are_the_same_bits(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    from_stage = staged(path, tmp_path / "stage", range(12))
    assert "trained to step 12" in ranks.run(1, train_on_rank, path, f"folder={tmp_path}/run", *from_stage)[0]
    assert same_bits(finished, tmp_path / "run", 12)
    audit = audit_run(tmp_path / "run", progress=False)
    assert audit.passed
    assert audit.steps == 12


def test_a_run_moves_to_a_stage_of_what_is_left(finished: Path, path: Path, tmp_path: Path, ranks: Ranks) -> None:
    """From the source to step 4, then from a stage of steps 4 to 11; and the audit again from the source."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for step in (8, 12):
        shutil.rmtree(run / f"step{step}")
    from_stage = staged(path, tmp_path / "rest", range(4, 12))
    overrides = (f"folder={run}", *from_stage)
    experiment = load_experiment(path, overrides)
    assert check_before_launch(experiment, 1, "cpu", False).done is None
    with alone() as device:  # a trial is of the next steps too
        assert time_steps(experiment, device, steps=1, checkpoint=False).steps == 1
    assert "trained to step 12" in ranks.run(1, train_on_rank, path, *overrides)[0]
    assert same_bits(finished, run, 12)
    with pytest.raises(UserError, match="holds steps 4 to 11, not step 0"):
        audit_run(run, progress=False)
    # And back: the finished run is taken up from the source.
    assert "nothing to do" in ranks.run(1, train_on_rank, path, f"folder={run}")[0]
    assert audit_run(run, progress=False).passed


def test_steps_that_are_not_staged_are_refused(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    short = staged(path, tmp_path / "short", range(11))
    late = staged(path, tmp_path / "late", range(4, 12))
    for overrides, said in (
        ((f"folder={tmp_path}/run", *short), "holds steps 0 to 10, not step 11"),
        ((f"folder={tmp_path}/run", *late), "holds steps 4 to 11, not steps 0 to 11"),
    ):
        with pytest.raises(UserError, match=said):
            check_before_launch(load_experiment(path, overrides), 1, "cpu", False)
        assert said in ranks.run(1, train_on_rank, path, *overrides)[0]


def test_a_node_has_the_rows_of_its_ranks_alone(path: Path, tmp_path: Path, ranks: Ranks) -> None:
    half = staged(path, tmp_path / "node0", range(12), RankRange(0, 0, 2))
    both = staged(path, tmp_path / "node", range(12), RankRange(0, 1, 2))
    said = ranks.run(2, train_on_rank, path, f"folder={tmp_path}/run", *half)
    assert all("holds the rows of ranks 0-0 of 2, not row 1 of a batch" in each for each in said)
    whole = load_experiment(path, (f"folder={tmp_path}/whole", *both))
    assert check_before_launch(whole, 2, "cpu", False).done is None
    said = ranks.run(2, train_on_rank, path, f"folder={tmp_path}/whole", *both)
    assert all("trained to step 12" in each for each in said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("corpus.seed=9", "corpus.seed: 9, but .* was staged with 6198"),
        ("train.global_train_batch_size=6", f"batch size: 6, but .* was staged with {BATCH}"),
        ("model.max_sequence_length=8", "sequence length: 8, but .* was staged with 16"),
        ("corpus.eos_token_id=5", "corpus.eos_token_id: 5, but .* was written with 0"),
        ("train.data.label_mask_paths=[a.npy]", "label_mask_paths: a staged or remote corpus has no label masks"),
    ],
)
def test_what_the_stage_contradicts_is_refused(path: Path, tmp_path: Path, change: str, said: str) -> None:
    overrides = (*staged(path, tmp_path / "stage", range(12)), change)
    with pytest.raises(UserError, match=said):
        check_before_launch(load_experiment(path, overrides), 1, "cpu", False)


def test_another_corpus_is_told_from_the_stage_of_this_one(
    finished: Path, path: Path, tmp_path: Path, ranks: Ranks
) -> None:
    from_stage = staged(path, tmp_path / "stage", range(12))
    record = json.loads((tmp_path / "stage" / "stage.json").read_text())
    (tmp_path / "stage" / "stage.json").write_text(json.dumps(record | {"corpus": "0" * 64}))
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert "corpus has changed" in ranks.run(1, train_on_rank, path, f"folder={run}", *from_stage)[0]
