"""Sweep files for tests: small grids over a small experiment."""

from __future__ import annotations

from pathlib import Path

from runs import write_experiment

from launch.sweep import Sweep, load_sweep

SWEEP = """
name: small
folder: {folder}/sweep
experiment: {experiment}
set: {{train.max_duration: 12}}
axes:
  - {{name: rate, key: injections.0.instances_per_batch, values: [1/2, 2]}}
resources: {{gpus_per_node: 0, time: "01:00:00"}}
"""


def write_sweep(folder: Path, more: str = "", text: str = SWEEP) -> Path:
    """A sweep of two cells over an experiment of its own; `more` is added to the file."""
    path = folder / "sweep.yaml"
    path.write_text(text.format(folder=folder, experiment=write_experiment(folder / "data")) + more)
    return path


def small_sweep(folder: Path, more: str = "") -> Sweep:
    """As `write_sweep`, loaded."""
    return load_sweep(write_sweep(folder, more))
