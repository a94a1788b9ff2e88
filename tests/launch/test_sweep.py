"""Sweep files: the grid they describe, every shipped one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.sweep import load_sweep
from olmo_inject.config import configs_folder, load_experiment
from olmo_inject.errors import UserError

SHIPPED = sorted(path.stem for path in (configs_folder() / "sweeps").glob("*.yaml"))
PLAIN = {
    "name": "grid",
    "experiment": "demo",
    "axes": [
        {"name": "model", "key": "model", "values": ["tiny-8", "tiny-16"]},
        {"name": "rate", "key": "injections.0.instances_per_batch", "values": [1, "1/10"]},
    ],
    "resources": {"gpus_per_node": 0},
}


def write(where: Path, **changes: object) -> Path:
    path = where / "sweep.yaml"
    path.write_text(yaml.safe_dump(PLAIN | changes))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_loads(name: str) -> None:
    cells = load_sweep(name).cells
    # Where a corpus lies and for how long a run goes on may change, so they are no part of the identity.
    runs = {(cell.identity, repr(cell.experiment.corpus), cell.experiment.steps) for cell in cells}
    assert len(runs) == len(cells)
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.slow
def test_the_paper_s_grids_have_their_cells() -> None:
    grid = load_sweep("size-frequency-tcmp")
    assert len(grid.cells) == 5 * 8
    rates = {cell.experiment.injections[0].instances_per_batch for cell in grid.cells}
    assert {1024, "1/10"} <= rates
    bursts = [cell.experiment.injections[0] for cell in load_sweep("matched-frequency").cells]
    assert {(burst.instances, burst.every) for burst in bursts} == {(n, n) for n in (1, 10, 20, 50, 100)}
    dense = load_sweep("retention").cells[0].experiment
    assert all(step in dense.evaluation.also for step in range(10000, 10100))


def test_a_cell_is_its_experiment_with_its_labels(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, folder=str(tmp_path / "out")))
    names = [cell.name for cell in sweep.cells]
    assert names == [
        "model-tiny-8_rate-1",
        "model-tiny-8_rate-1of10",
        "model-tiny-16_rate-1",
        "model-tiny-16_rate-1of10",
    ]
    last = sweep.cells[-1].experiment
    assert (last.model.d_model, last.injections[0].instances_per_batch) == (16, "1/10")
    assert last.run_folder == tmp_path / "out" / "runs" / names[-1]


def test_rules_and_exclusions(tmp_path: Path) -> None:
    rules = [
        {"when": {"model": "tiny-16"}, "set": {"train.device_train_microbatch_size": 4}, "resources": {"nodes": 2}},
        {"when": {"rate": ["1/10"]}, "resources": {"time": "1-00:00:00"}},
    ]
    sweep = load_sweep(write(tmp_path, rules=rules, exclude=[{"model": "tiny-8", "rate": 1}]))
    assert [cell.labels["model"] for cell in sweep.cells] == ["tiny-8", "tiny-16", "tiny-16"]
    assert [cell.resources.nodes for cell in sweep.cells] == [1, 2, 2]
    assert [cell.resources.time for cell in sweep.cells] == ["1-00:00:00", "24:00:00", "1-00:00:00"]
    assert sweep.cells[1].experiment.train.device_train_microbatch_size == 4
    assert sweep.cells[0].experiment.train.device_train_microbatch_size == 64


def test_some_cells_are_chosen_by_label(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    assert sweep.only([]).cells == sweep.cells
    assert [cell.labels for cell in sweep.only(["rate=1/10"]).cells] == [
        {"model": "tiny-8", "rate": "1of10"},
        {"model": "tiny-16", "rate": "1of10"},
    ]
    assert sweep.only(["model=tiny-8,tiny-16", "rate=1"]).cells == [sweep.cells[0], sweep.cells[2]]
    assert sweep.only(["model=tiny-8", "model=tiny-16", "rate=1"]).cells == [sweep.cells[0], sweep.cells[2]]
    for wrong, said in [
        ("rat=1", "--only: 'rat' is not an axis: model, rate"),
        ("rate=2", "--only: rate: '2' is not one of 1, 1of10"),
        ("rate", "--only: rate: '' is not one of 1, 1of10"),
    ]:
        with pytest.raises(UserError, match=f"^{said}$"):
            sweep.only([wrong])
    excluding = load_sweep(write(tmp_path, exclude=[{"model": "tiny-8", "rate": 1}]))
    with pytest.raises(UserError, match="no cell of sweep grid has model=tiny-8 and rate=1$"):
        excluding.only(["model=tiny-8", "rate=1"])


def test_only_the_chosen_cells_are_resolved(tmp_path: Path) -> None:
    file = write(tmp_path, rules=[{"when": {"rate": 1}, "set": {"train.eval_interval": 0}}])
    assert len(load_sweep(file, only=["rate=1/10"]).cells) == 2
    with pytest.raises(UserError, match="rate-1: .*eval_interval: 0 must be at least 1"):
        load_sweep(file)


def test_cases_set_several_keys_together(tmp_path: Path) -> None:
    burst = {"task": "tcmp", "schedule": "burst"}
    cases = {f"n{n}": {"injections": [burst | {"instances": n, "every": n}], "plan_seed": n} for n in (1, 10)}
    sweep = load_sweep(write(tmp_path, axes=[{"name": "burst", "cases": cases}]))
    assert [(cell.experiment.injections[0].every, cell.experiment.plan_seed) for cell in sweep.cells] == [
        (1, 1),
        (10, 10),
    ]


def test_an_override_of_every_cell_names_or_places_none_of_them(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path), overrides=["train.seed=3"]).cells[0].experiment.train.seed == 3
    with pytest.raises(UserError, match="^folder=out: folder: leave it out: each cell has its own, from its labels"):
        load_sweep(write(tmp_path), overrides=["folder=out"])


def test_nested_keys_are_those_with_dots(tmp_path: Path) -> None:
    """What sets one of them leaves the others, and lists replace lists."""
    injections = [{"task": "tcmp", "schedule": "burst", "instances": 3, "every": 5}]
    changes = {
        "set": {"model": {"name": "tiny-8", "max_sequence_length": 32}, "train": {"max_duration": 7, "seed": 1}},
        "axes": [{"name": "a", "cases": {"b": {"train": {"seed": 2}, "injections": injections, "plan_seed": 4}}}],
        "rules": [{"when": {"a": "b"}, "set": {"train": {"optimizer": {"learning_rate": 0.5}}}}],
    }
    experiment = load_sweep(write(tmp_path, **changes)).cells[0].experiment
    assert (experiment.model.d_model, experiment.model.max_sequence_length) == (8, 32)
    assert (experiment.train.max_duration, experiment.train.seed, experiment.plan_seed) == (7, 2, 4)
    assert experiment.train.optimizer.learning_rate == 0.5
    assert [(entry.instances, entry.every) for entry in experiment.injections] == [(3, 5)]


def test_a_rule_changes_an_entry_of_the_list_that_a_case_gives(tmp_path: Path) -> None:
    injections = [{"task": "tcmp", "schedule": "burst", "instances": 3, "every": 5}]
    axes = [{"name": "a", "cases": {"burst": {"injections": injections}, "even": {"plan_seed": 1}}}]
    place = {"injections.0.place": "end"}
    for rules in ([{"set": place}], [{"set": {"injections.0.place": "random"}}, {"set": place}]):
        cells = load_sweep(write(tmp_path, axes=axes, rules=rules)).cells
        entries = [cell.experiment.injections[0] for cell in cells]
        assert [(entry.schedule, entry.place) for entry in entries] == [("burst", "end"), ("uniform", "end")]
    with pytest.raises(UserError, match=r"^cell a-burst: injections: give the whole list before injections\.0, which"):
        load_sweep(write(tmp_path, axes=axes, set=place))


@pytest.mark.parametrize("nothing", ["train", "model", "injections", "train.optimizer"])
def test_keys_and_values_without_any_set_nothing(tmp_path: Path, nothing: str) -> None:
    case = {"train.max_duration": 100, "train.optimizer.eps": 0.5, "model": "tiny-8", "injections": []}
    axes = [{"name": "a", "cases": {"b": case}}]
    (before,), (after,) = (
        load_sweep(write(tmp_path, axes=axes, rules=[{"set": more}])).cells for more in ({}, {nothing: {}})
    )
    assert after.experiment == before.experiment


def test_identity_follows_what_is_trained(tmp_path: Path) -> None:
    def identities(**settings: object) -> list[str]:
        return [cell.identity for cell in load_sweep(write(tmp_path, set=settings)).cells]

    before = identities()
    assert identities(**{"train.device_train_microbatch_size": 8, "train.save_interval": 7}) == before
    assert not set(identities(**{"train.seed": 1})) & set(before)
    assert not set(identities(**{"train.max_duration": 501})) & set(before)  # a cosine schedule would be another one


@pytest.mark.slow
@settings(max_examples=6)
@given(st.sampled_from(["train.optimizer.learning_rate", "plan_seed", "corpus.seed"]), st.integers(1, 9))
def test_overrides_reach_the_experiment_unchanged(key: str, value: int) -> None:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        axis = {"name": "x", "key": key, "values": [value, value / 7, f"{value}e-4"][: 3 if "rate" in key else 1]}
        cells = load_sweep(write(Path(folder), axes=[axis])).cells
    for cell, given_value in zip(cells, axis["values"], strict=True):
        expected = load_experiment("demo", [f"{key}={json.dumps(given_value)}"])
        part = expected.train.optimizer.learning_rate if "rate" in key else float(given_value)
        found: object = cell.experiment
        for name in key.split("."):
            found = getattr(found, name)
        assert found == part


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axs": []}, "axs"),
        ({"name": ""}, "name, experiment and axes"),
        ({"name": "../grid"}, "name: '../grid'"),
        ({"name": "two words"}, "name: 'two words'"),
        ({"at_once": 0}, "at_once: 0"),
        ({"resources": {"gpus_per_node": -1}}, "gpus_per_node at least 0"),
        ({"axes": [{"name": "a b", "key": "model", "values": ["tiny-8"]}]}, "axes: a b: name"),
        ({"axes": [{"name": "m", "key": "model", "values": ["tiny-8", "tiny-8"]}]}, "values: one is given twice"),
        ({"axes": [{"name": "m", "key": "model"}]}, "either key and values, or cases"),
        ({"axes": [{"name": "m", "key": "model", "values": ["a b"]}]}, "file name"),
        ({"rules": [{"when": {"size": 1}}]}, "'size' is not an axis"),
        ({"rules": [{"when": {"model": "9B"}}]}, "'9B' is not one of tiny-8, tiny-16"),
        ({"rules": [{"when": {"model": "tiny-8"}, "resources": {"gpu": 1}}]}, "gpu"),
        ({"exclude": {"model": "tiny-8"}}, "exclude: must be a list"),
        (
            {"rules": [{"when": {"model": "tiny-8"}, "set": {"train.sed": 1}}]},
            "the sweep's set, axes or rules: train.sed",
        ),
        ({"exclude": [{"model": ["tiny-8", "tiny-16"]}]}, "every cell is excluded"),
        ({"resources": {"gpus_per_node": 7}}, "a batch of 64 rows is not divisible by 7 ranks"),
        ({"resources": {"time": "a day"}}, "hours:minutes:seconds"),
        ({"set": {"train.sed": 1}}, "cell model-tiny-8_rate-1"),
        ({"set": {"injections.0.instances_per_batch": 99}, "axes": PLAIN["axes"][:1]}, "more than its 64 rows"),
        ({"set": {"name": "mine"}}, "sweep.yaml: set: name: leave it out: each cell has its own"),
        ({"axes": [{"name": "f", "key": "folder", "values": ["a"]}]}, "axes: f: a: folder: leave it out"),
        ({"rules": [{"when": {}, "set": {"folder": "a"}}]}, "rules.0.set: folder: leave it out"),
        ({"experiment": "nothing"}, "neither a file nor one of the shipped experiments"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_sweep(write(tmp_path, **changes))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_values_of_an_axis_stay_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        """
name: 0010
experiment: demo
set: {train.wandb.project: 12:30, train.wandb.group: '1e3', tasks.0.options.n_values: 0x10}
axes:
  - {name: entity, key: train.wandb.entity, values: [0010, yes, 1e3, '0020']}
  - {name: lr, key: train.optimizer.learning_rate, values: [1e-3, 0.010]}
exclude: [{entity: yes, lr: 1e-3}]
rules: [{when: {entity: 0010}, set: {train.wandb.name: 0x1F}, resources: {cpus_per_process: 02, time: 10:00:00}}]
"""
    )
    sweep = load_sweep(path)
    assert (sweep.name, str(sweep.folder), len(sweep.cells)) == ("0010", "runs/0010", 7)
    assert {cell.labels["entity"] for cell in sweep.cells} == {"0010", "yes", "1e3", "0020"}
    assert {cell.labels["lr"] for cell in sweep.cells} == {"1e-3", "0.010"}
    first = sweep.cells[0]
    wandb = first.experiment.train.wandb
    assert wandb is not None
    assert (wandb.project, wandb.group, wandb.entity, wandb.name) == ("12:30", "1e3", "0010", "0x1F")
    assert first.experiment.train.optimizer.learning_rate == 1e-3
    assert first.experiment.tasks[0].options["n_values"] == 16
    assert (first.resources.cpus_per_process, first.resources.time) == (2, "10:00:00")


def test_plain_text_of_a_block_stays_one_value(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        """
name: grid
experiment: demo
set:
  tasks.0.options.names:
    - x, y
    - c d[1].npy
    - 0010
axes: [{name: seed, key: plan_seed, values: [1]}]
"""
    )
    assert load_sweep(path).cells[0].experiment.tasks[0].options["names"] == ["x, y", "c d[1].npy", 10]


def test_a_grid_that_is_too_large_is_refused_before_it_is_built(tmp_path: Path) -> None:
    axes = [{"name": f"a{i}", "key": f"train.seed{i}", "values": list(range(30))} for i in range(6)]
    with pytest.raises(UserError, match=r"axes: the grid has 729,000,000 cells, more than 10,000$"):
        load_sweep(write(tmp_path, axes=axes))
