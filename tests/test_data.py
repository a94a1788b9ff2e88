"""From a configuration to vocabulary, tasks, plan and corpus; and configurations that contradict their corpus."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import write_shards
from rich.console import Console

from olmo_inject.config import Experiment, InjectionConfig, load_experiment
from olmo_inject.corpus import kinds
from olmo_inject.corpus.from_text.sample import DOLMA, build_sample
from olmo_inject.data import build_data, build_plan
from olmo_inject.errors import UserError
from olmo_inject.inspect.plan import print_plan, print_step
from olmo_inject.inspect.summary import plan_summary
from olmo_inject.runs.same_run import fingerprints
from olmo_inject.tasks import TaskConfig

LENGTH, BATCH = 8, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sample(tmp_path_factory.mktemp("data") / "corpus", vocab_size=512, sources=["openbookqa"]).folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("own"), [500, 300])


def experiment(tmp_path: Path, corpus: dict[str, Any], *overrides: str, **model: int) -> Experiment:
    """A small experiment, by default over 512 ids with EOS 0 and PAD 1."""
    sizes = {"vocab_size": 512, "embedding_size": 512, "eos_token_id": 0, "pad_token_id": 1, **model}
    path = tmp_path / "x.yaml"
    record = {
        "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "max_sequence_length": LENGTH, **sizes},
        "corpus": corpus,
        "tasks": [{"name": "tcmp", "kind": "comparison", "options": {"n_values": 10}}],
        "injections": [{"task": "tcmp", "instances_per_batch": "5/2"}],
        "train": {"max_duration": 7, "global_train_batch_size": BATCH},
    }
    path.write_text(json.dumps(record))
    return load_experiment(path, overrides)


def bare(shards: list[Path], **more: Any) -> dict[str, Any]:
    ids = {"vocab_size": 200, "eos_token_id": 0, "pad_token_id": 1}
    return {"paths": [str(path) for path in shards], **ids, **more}


def test_a_gap_longer_than_what_is_looked_at(folder: Path, tmp_path: Path) -> None:
    rare = experiment(tmp_path, {"folder": str(folder)}, "train.max_duration=100000", "injections.0.per_row=2")
    rare.injections[0].schedule, rare.injections[0].instances_per_batch = "burst", None
    rare.injections[0].instances, rare.injections[0].every = 8, 25_000
    planned = build_plan(rare)
    told = plan_summary(rare, planned)["injections"]["tcmp"]["steps_between_observations"]
    assert told == {"least": 25_000, "mean": 25_000.0, "most": 25_000}
    print_step(planned, 25_000, Console(file=(shown := StringIO()), width=100))
    assert "Step 25000: 4 of 16 rows injected" in shown.getvalue()  # eight instances, two in a row


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [("at, file: {list}", "3/1000"), ("phases, phases: [{{start: 10, stop: 20, instances_per_batch: 2}}]", "1/50")],
)
def test_a_rate_is_of_the_steps_that_the_plan_names(folder: Path, tmp_path: Path, schedule: str, rate: str) -> None:
    (listed := tmp_path / "list.jsonl").write_text('{"step": 5}\n{"step": 5}\n{"step": 7}\n')
    injections = f"injections=[{{task: tcmp, schedule: {schedule.format(list=listed)}}}]"
    run = experiment(tmp_path, {"folder": str(folder)}, "train.max_duration=1000", injections)
    told = plan_summary(run, planned := build_plan(run))["injections"]["tcmp"]
    assert (told["start"], told["stop"], told["instances_per_batch"]) == (0, None, rate)
    assert told["instances"] == 1000 * planned.plan.entries[0].schedule.rate
    assert told["mean_steps_between_sightings_of_one_instance"] == told["train_instances"] / float(Fraction(rate))


@pytest.mark.parametrize(
    ("schedule", "rate", "count"),
    [
        ("uniform, instances_per_batch: 1/10", "1/10", 60),
        ("uniform, instances_per_batch: 1/10, start: 900", "1/10", 10),
        ("uniform, instances_per_batch: 1/10, stop: 300", "1/10", 0),
        ("burst, instances: 2, every: 7", "2/7", 2 * 85),
        ("bernoulli, instances_per_batch: 1/2, stop: 500", "1/2", 50),
        ("bernoulli, instances_per_batch: 1/2, stop: 300", "1/2", 0),
        ("phases, phases: [{start: 10, stop: 500, instances_per_batch: 2}]", "1/3", 200),
        ("repetitions, times: 2, start: 400, spread: random", "1/6", 100),
    ],
)
def test_a_branch_counts_from_its_first_step(
    folder: Path, tmp_path: Path, schedule: str, rate: str, count: float
) -> None:
    injections = f"injections=[{{task: tcmp, schedule: {schedule}}}]"
    run = experiment(tmp_path, {"folder": str(folder)}, "train.max_duration=1000", injections)
    planned = build_plan(run)
    summary = plan_summary(run, planned, 400)
    told = summary["injections"]["tcmp"]
    assert (told["instances_per_batch"], told["instances"]) == (rate, count)
    assert (summary["steps"], summary["tokens"]) == (1000, 600 * BATCH * LENGTH)
    print_plan(run, planned, Console(file=(shown := StringIO()), width=200), 400)
    assert "600 steps from step 400 on of 16" in shown.getvalue()
    assert all(f"Step {step}:" not in shown.getvalue() for step in range(400))


def test_from_a_corpus_folder(folder: Path, tmp_path: Path) -> None:
    data = build_data(experiment(tmp_path, {"folder": str(folder)}))
    assert data.source.vocabulary.size == 512
    assert len(data.shards) == sum(path.stat().st_size // 2 // LENGTH for path in folder.glob("*.npy"))
    assert len(data.corpus) == 7 * BATCH
    assert (data.order.seed, data.order.batch_size) == (6198, BATCH)
    rows = data.corpus.rows(np.arange(BATCH, 2 * BATCH))["input_ids"].numpy()
    injected = data.plan.at(1)
    assert len(injected.rows) == 3
    np.testing.assert_array_equal(rows[injected.rows, :3], data.plan.tokens(injected).table())
    assert set(rows[injected.rows, 3].tolist()) == {0}
    assert data.corpus[0].keys() == {"input_ids"}


def test_the_first_sequences_alone(shards: list[Path], tmp_path: Path) -> None:
    whole, part = (
        build_data(experiment(tmp_path, bare(shards))),
        build_data(experiment(tmp_path, bare(shards, sequences=BATCH * 2 + 3))),
    )
    read = part.order[np.arange(7 * BATCH)]
    assert part.order.epoch_steps == 2
    assert read.max() < BATCH * 2 + 3
    assert len(np.unique(read)) > BATCH * 2  # over several epochs, which leave out 3 each, none is always left out
    np.testing.assert_array_equal(part.shards.read(read[:5]), whole.shards.read(read[:5]))
    assert fingerprints(part)["order"] != fingerprints(whole)["order"]
    with pytest.raises(UserError, match=r"corpus\.sequences: 1,000 are more than the 99 of the corpus"):
        build_data(experiment(tmp_path, bare(shards, sequences=1000)))
    with pytest.raises(UserError, match=r"corpus\.sequences: 15 do not fill one batch of 16"):
        experiment(tmp_path, bare(shards, sequences=15))
    with pytest.raises(UserError, match=r"corpus\.sequences: 0 must be at least 1"):
        experiment(tmp_path, bare(shards, sequences=0))


def test_copies_are_of_the_rows_that_the_run_trains_on(shards: list[Path], tmp_path: Path) -> None:
    described = experiment(tmp_path, bare(shards, sequences=40))
    described.tasks = [TaskConfig("again", "copies", options={"count": 20, "of": "rows", "tokens": 5, "context": 2})]
    described.injections = [InjectionConfig("again", schedule="repetitions", times=3)]
    data = build_data(described)
    task = data.tasks[0]
    assert len(task.train_ids) == 10
    for name, tokens in zip(task.ids, task.instances, strict=True):
        sequence = int(name.removesuffix("+0"))
        assert sequence < 40, "of the first sequences, which alone are read"
        assert data.shards.read(np.array([sequence]))[0, :5].tolist() == tokens.tolist()
    drawn = np.concatenate([data.plan.at(step).instance for step in range(7)])
    assert np.bincount(drawn, minlength=20).tolist() == [3 if i in task.train_ids else 0 for i in range(20)]


def test_from_bare_ids(shards: list[Path], tmp_path: Path) -> None:
    data = build_data(experiment(tmp_path, bare(shards)))
    assert (data.source.vocabulary.size, data.source.vocabulary.tokenizer) == (200, None)
    assert data.shards.vocab_size == 200, "padding rows of the embedding are no ids of the corpus"
    assert max(int(task.tokens.max()) for task in data.tasks) < 200


def test_from_a_named_tokenizer(shards: list[Path], tmp_path: Path) -> None:
    """The Dolma tokenizer: 50,280 ids, padded to 50,304."""
    sizes = {"vocab_size": 50_280, "embedding_size": 50_304, "eos_token_id": 50_279, "pad_token_id": 1}
    corpus = {"paths": [str(path) for path in shards], "tokenizer": DOLMA}
    data = build_data(experiment(tmp_path, corpus, **sizes))
    assert data.corpus.eos_id == 50_279
    assert data.shards.vocab_size == 50_280


def test_globs_are_sorted_and_paths_may_repeat(shards: list[Path], tmp_path: Path) -> None:
    pattern = str(shards[0].parent / "part-*.npy")
    data = build_data(experiment(tmp_path, bare(shards) | {"paths": [str(shards[1]), pattern]}))
    assert data.shards.paths == [shards[1], *shards]


def test_the_plan_needs_no_shard(shards: list[Path], tmp_path: Path) -> None:
    config = experiment(tmp_path, bare(shards) | {"paths": ["absent.npy"]})
    assert len(build_plan(config).plan.at(1).rows) == 3
    with pytest.raises(UserError, match=r"cannot read shard absent\.npy"):
        build_data(config)


def test_a_long_order_lies_in_the_cache_or_in_the_run_folder(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(tmp_path, bare(shards), f"folder={tmp_path}/run")
    plain = build_data(config)
    assert plain.order.folder is None
    plain.order.prepare(len(plain.corpus))
    expected = plain.corpus.rows(np.arange(7 * BATCH))["input_ids"]
    monkeypatch.setattr(kinds, "SHARED_FROM", 1)
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    for written in (tmp_path / "cache", Path(config.folder)):
        data = build_data(config)
        data.order.prepare(len(data.corpus))
        assert list((written / "order").glob("*.u32"))
        assert (data.corpus.rows(np.arange(7 * BATCH))["input_ids"] == expected).all()
        shutil.rmtree(written)
        (tmp_path / "cache").write_text("")  # now it cannot be written


def test_what_another_process_found_is_not_looked_at_again(shards: list[Path], tmp_path: Path) -> None:
    shards = [Path(shutil.copy(path, tmp_path)) for path in shards]
    config = experiment(tmp_path, bare(shards))
    looked = build_data(config)
    away = [path.rename(path.with_suffix(".away")) for path in shards]
    data = build_data(config, checked_sizes=looked.shards.sizes)
    assert data.shards.fingerprint() == looked.shards.fingerprint()
    with pytest.raises(UserError, match=r"cannot read shard .*: No such file"):
        data.corpus.rows(np.arange(BATCH))
    for path, there in zip(shards, away, strict=True):
        there.rename(path)
    same = data.corpus.rows(np.arange(BATCH))["input_ids"] == looked.corpus.rows(np.arange(BATCH))["input_ids"]
    assert same.all()
    for path in shards:
        with path.open("ab") as file:
            file.write(bytes(2))
    with pytest.raises(UserError, match=r"has [\d,]+ bytes and had [\d,]+: it has changed"):
        build_data(config, checked_sizes=looked.shards.sizes).corpus.rows(np.arange(BATCH))


def test_shards_of_a_folder_are_looked_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `corpus.json` nor a task of the corpus's own rows makes every rank ask for every shard."""
    config = experiment(tmp_path, {"folder": str(folder)})
    config.tasks.append(TaskConfig("again", "copies", options={"count": 4, "of": "rows", "tokens": 5, "context": 2}))
    config.injections.append(InjectionConfig("again", schedule="repetitions", times=3))
    looked = build_data(config)
    asked: Counter[str] = Counter()
    for name in ("stat", "lstat"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda p, *a, _f=plain, **k: (asked.update([str(p)]), _f(p, *a, **k))[1])
    data = build_data(config, checked_sizes=looked.shards.sizes)
    assert not [path for path in asked if path.endswith(".npy")]
    assert data.shards.fingerprint() == looked.shards.fingerprint()
    assert data.tasks[1].ids == looked.tasks[1].ids
    asked.clear()
    data.corpus.rows(np.arange(BATCH))
    assert not asked, "opening a shard to read it resolves no folder above it"
    build_data(config)
    assert [path for path in asked if path.endswith(".npy")]


def test_masks_and_document_lengths_are_configured_as_ai2_olmos(shards: list[Path], tmp_path: Path) -> None:
    masks = []
    for path in shards:
        masks.append(tmp_path / path.name)
        np.ones(path.stat().st_size // 2, bool).tofile(masks[-1])
    config = experiment(
        tmp_path,
        bare(shards),
        f"train.data.label_mask_paths=[{', '.join(map(str, masks))}]",
        "train.data.generate_doc_lengths=true",
        "train.data.instance_filter={repetition_max_period: 2, repetition_min_period: 1, repetition_max_count: 3}",
    )
    data = build_data(config)
    assert data.corpus[0].keys() == {"input_ids", "instance_mask", "label_mask", "mask_overridden", "doc_lens"}
    assert data.corpus.instance_filter is not None
    assert not data.corpus.instance_filter(np.array([5, 6, 5, 6, 5, 6, 5, 6]))
    assert data.corpus.instance_filter(np.array([5, 6, 7, 5, 6, 7, 5, 6, 7]))


def refusal(config: Experiment) -> str:
    with pytest.raises(UserError) as refused:
        build_data(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({"vocab_size": None}, {}, "corpus: without a tokenizer, give vocab_size, eos_token_id and pad_token_id"),
        ({"eos_token_id": None}, {}, "corpus: without a tokenizer, give vocab_size, eos_token_id and pad_token_id"),
        ({"eos_token_id": 3}, {}, "those of tokenizer 200 ids: set model.eos_token_id=3 (now 0)"),
        ({"pad_token_id": 3}, {}, "set model.pad_token_id=3 (now 1)"),
        ({"eos_token_id": 200}, {}, "EOS id 200 lies outside the vocabulary"),
        ({"vocab_size": 513}, {}, "set model.vocab_size=513 model.embedding_size=640 (now 512, 512)"),
        ({"vocab_size": 100}, {}, "at or beyond the vocabulary of 100: wrong tokenizer or dtype (uint16)?"),
        ({"vocab_size": 13}, {}, "tasks: tcmp: needs 12 tokens, the vocabulary has 11 left that may be sampled"),
        ({"dtype": "uint32"}, {}, "wrong tokenizer or dtype (uint32)?"),
        ({"dtype": "uint64"}, {}, "wrong tokenizer or dtype (uint64)?"),
        ({"dtype": "int16"}, {}, "corpus: dtype 'int16' is not one of uint8, uint16, uint32, uint64"),
        ({"tokenizer": "gpt2-of-nobody"}, {}, "no tokenizer gpt2-of-nobody: neither a file nor one of"),
        ({"tokenizer": DOLMA, "vocab_size": None, "eos_token_id": 5}, {}, "EOS id 5 is not the EOS of tokenizer"),
        ({"tokenizer": DOLMA, "vocab_size": None, "eos_token_id": None}, {}, "set model.vocab_size=50280 "),
        ({"paths": ["nothing-*.npy"]}, {}, "corpus.paths: nothing matches nothing-*.npy"),
        ({}, {"max_sequence_length": 501}, "corpus: no shard holds a whole sequence of 501 tokens"),
    ],
)  # fmt: skip
def test_contradictions_of_bare_shards(
    shards: list[Path], tmp_path: Path, changes: dict[str, Any], model: dict[str, int], message: str
) -> None:
    assert message in refusal(experiment(tmp_path, bare(shards, **changes), **model))


def test_eos_of_the_model_is_the_tokenizers(shards: list[Path], tmp_path: Path) -> None:
    sizes = {"vocab_size": 50_280, "embedding_size": 50_304}
    config = experiment(tmp_path, {"paths": [str(shards[0])], "tokenizer": DOLMA}, **sizes)
    assert refusal(config).endswith(f"tokenizer {DOLMA}: set model.eos_token_id=50279 (now 0)")


def test_all_that_a_model_lacks_is_said_at_once(shards: list[Path], tmp_path: Path) -> None:
    """And doing what is said is enough."""
    corpus = {"paths": [str(shards[0])], "tokenizer": DOLMA}
    said = refusal(experiment(tmp_path, corpus))
    change = "model.vocab_size=50280 model.embedding_size=50304 model.eos_token_id=50279"
    assert said == f"model: its ids are not those of tokenizer {DOLMA}: set {change} (now 512, 512, 0)"
    build_data(experiment(tmp_path, corpus, *change.split()))


def test_a_corpus_smaller_than_a_batch(shards: list[Path], tmp_path: Path) -> None:
    config = experiment(tmp_path, bare(shards), "train.global_train_batch_size=128")
    assert refusal(config) == "corpus: 99 sequences do not fill one batch of 128"


def test_contradictions_of_a_corpus_folder(folder: Path, tmp_path: Path) -> None:
    assert f"corpus.eos_token_id: 5, but {folder} was written with 0" in refusal(
        experiment(tmp_path, {"folder": str(folder), "eos_token_id": 5})
    )
    assert f"corpus.pad_token_id: 5, but {folder} was written with 1" in refusal(
        experiment(tmp_path, {"folder": str(folder), "pad_token_id": 5})
    )
    assert "does not exist" in refusal(experiment(tmp_path, {"folder": str(tmp_path / "absent")}))
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    with (damaged / "part-00000.npy").open("ab") as file:
        file.write(b"\0")
    assert "bytes where corpus.json records" in refusal(experiment(tmp_path, {"folder": str(damaged)}))


@pytest.mark.parametrize(
    ("injection", "message"),
    [
        (
            "{task: tcmp, schedule: burst, instances: 17, every: 5}",
            "step 0 gets 17 of tcmp instances, more than its 16 rows",
        ),
        ("{task: tcmp, schedule: bernoulli, instances_per_batch: 1, draw: epochs}", "draw 'epochs' needs an exact"),
    ],
)
def test_impossible_plans_are_refused_before_a_shard_is_opened(
    shards: list[Path], tmp_path: Path, injection: str, message: str
) -> None:
    config = experiment(tmp_path, bare(shards) | {"paths": ["absent.npy"]}, f"injections=[{injection}]")
    assert message in refusal(config)


def test_adding_a_task_moves_nothing_of_the_first(shards: list[Path], tmp_path: Path) -> None:
    one = experiment(tmp_path, bare(shards))
    two = experiment(
        tmp_path,
        bare(shards),
        "injections=[{task: tcmp, instances_per_batch: 5/2}, {task: tadd, instances_per_batch: 3}]",
        "tasks=[{name: tcmp, kind: comparison, options: {n_values: 10}}, "
        "{name: tadd, kind: modular_addition, options: {n_values: 10}}]",
    )
    alone, both = build_plan(one), build_plan(two)
    assert alone.tasks[0].fingerprint == both.tasks[0].fingerprint
    for step in range(7):
        first, second = alone.plan.at(step), both.plan.at(step)
        mine = second.task == 0
        assert first.rows.tolist() == second.rows[mine].tolist()
        assert first.instance.tolist() == second.instance[mine].tolist()
