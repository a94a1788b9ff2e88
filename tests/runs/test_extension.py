"""More steps, or fewer, change nothing of the steps that were trained, or they are refused."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import tasks_of
from written import BASE

from olmo_inject.config import Experiment, InjectionConfig, PhaseConfig, load_experiment
from olmo_inject.injection import Plan
from olmo_inject.plan_entries import planned_tasks
from olmo_inject.runs.same_run import differences, identity

TASK = tasks_of("tcmp")[0]
LEAST = 8  # steps of a run; every entry begins before


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run with batches of 100 rows; beside it lies a list of injections."""
    path = tmp_path_factory.mktemp("extended") / "x.yaml"
    path.write_text(BASE)
    steps = (1, 1, 3, LEAST - 1)
    (path.parent / "at.jsonl").write_text("".join(f"{json.dumps({'step': step})}\n" for step in steps))
    constant = "train.scheduler.name=constant"  # a learning rate that ends with the run refuses every extension
    return load_experiment(path, [f"folder={path.parent}/run", "train.global_train_batch_size=100", constant])


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """The keys of an entry of any schedule."""
    start = draw(st.integers(0, LEAST - 1))
    window = {"start": start, "stop": draw(st.one_of(st.none(), st.integers(start + 1, 40)))}
    rate = draw(st.sampled_from(["1/10", "1", "7/3"]))
    exact = {"draw": draw(st.sampled_from(["independent", "epochs"]))}
    half = draw(st.integers(1, LEAST - 1))
    phases = [PhaseConfig(0, half, rate), PhaseConfig(half, window["stop"] and window["stop"] + half, "2")]
    spread = draw(st.sampled_from(["even", "random"]))
    return draw(
        st.sampled_from(
            [
                {"schedule": "uniform", "instances_per_batch": rate, **window, **exact},
                {"schedule": "bernoulli", "instances_per_batch": rate, **window},
                {"schedule": "burst", "instances": 3, "every": 4, "phase": 1, **window, **exact},
                {"schedule": "repetitions", "times": 2, "spread": spread, **window},
                {"schedule": "phases", "phases": phases, **exact},
                {"schedule": "at", "file": "at.jsonl"},
            ]
        )
    )


def of_length(base: Experiment, steps: int, entry: dict[str, Any]) -> Experiment:
    """The run with other steps and one entry of `injections`."""
    other = deepcopy(base)
    other.train.max_duration = steps
    other.injections = [InjectionConfig("tcmp", **entry)]
    if other.injections[0].file is not None:
        other.injections[0].file = str(base.run_folder.parent / "at.jsonl")
    return other


def plan_of(run: Experiment) -> Plan:
    return Plan(planned_tasks(run, [TASK]), run.batch_size, run.plan_seed, run.steps)


@given(st.data(), st.integers(LEAST, 40), st.integers(LEAST, 40))
def test_another_length_moves_nothing_or_is_refused(base: Experiment, data: st.DataObject, one: int, two: int) -> None:
    entry = data.draw(entries())
    before, after = of_length(base, one, entry), of_length(base, two, entry)
    ends = [min(entry.get("stop") or steps, steps) for steps in (one, two)]
    moves = entry["schedule"] == "repetitions" and ends[0] != ends[1]
    assert bool(differences(before, after)) == moves
    assert (identity(before) != identity(after)) == moves, "a sweep compares the identities of its cells"
    if not moves:
        plans = plan_of(before), plan_of(after)
        for step in range(min(one, two)):
            here, there = (plan.at(step) for plan in plans)
            assert [column.tolist() for column in here] == [column.tolist() for column in there]


def test_what_is_said_is_what_helps(base: Experiment) -> None:
    entry = {"schedule": "repetitions", "times": 2}
    run = of_length(base, 8, entry)
    said = "injections.0.stop 8 -> {} (the repetitions are spread up to step 8: give stop: 8, and no fewer steps)"
    assert differences(run, of_length(base, 16, entry)) == [said.format(16)]
    assert differences(run, of_length(base, 6, entry | {"stop": 8})) == [said.format(6)]
    assert differences(run, of_length(base, 16, entry | {"stop": 8})) == []
    assert differences(run, of_length(base, 8, entry | {"times": 3})) == ["injections.0.times 2 -> 3"]
