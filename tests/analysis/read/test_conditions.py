"""What runs inject, in words."""

from __future__ import annotations

import json
from fractions import Fraction

import yaml
from copies import Copies

from analysis.read.conditions import entry_labels, schedule_label
from analysis.read.runs import read_run


def test_a_task_in_several_entries_names_them_all(copies: Copies) -> None:
    folder = copies.make("twice")
    experiment = yaml.safe_load((folder / "experiment.yaml").read_text())
    experiment["injections"] += [{"task": "less", "schedule": "repetitions", "times": 4, "start": 2, "stop": 9}]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    plan = json.loads((folder / "plan.json").read_text())
    plan["injections"]["less/2"] = plan["injections"]["less"] | {"instances_per_batch": "1/3"}
    (folder / "plan.json").write_text(json.dumps(plan))
    run = read_run(folder)
    assert schedule_label(run, "less") == "5/2 per batch; each 4 times, steps 2 to 9"
    assert list(entry_labels(run).items()) == [
        ("less", "5/2 per batch"),
        ("plus", "2 every 3 batches"),
        ("less/2", "each 4 times, steps 2 to 9"),
    ]
    assert run.frequency("less").per_batch == Fraction(17, 6)
    assert run.gap("less") == 1  # between the steps of both entries
    assert schedule_label(run, "none") == "not injected"
