"""Runs to spoil: copies of a real one with another experiment or other measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


class Copies:
    """Makes them in `folder` out of the run `trained`."""

    def __init__(self, trained: Path, folder: Path) -> None:
        self.trained = trained
        self.folder = folder

    def make(self, name: str, *changes: tuple[str, str], accuracy: dict[str, tuple[int, int]] | None = None) -> Path:
        """A copy called `name`; `changes` replace text of its experiment and rates of its plan, `accuracy` is added."""
        run = Path(shutil.copytree(self.trained, self.folder / name))
        text = (run / "experiment.yaml").read_text()
        for old, new in (("name: run\n", f"name: {name}\n"), *changes):
            assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        (run / "experiment.yaml").write_text(text)
        plan = (run / "plan.json").read_text()
        for old, new in changes:  # the plan says the rates that the experiment gives
            key, _, rate = new.partition(": ")
            if key == "instances_per_batch" and rate != "null":
                plan = plan.replace(f'"{key}": "{old.partition(": ")[2]}"', f'"{key}": "{rate}"')
        (run / "plan.json").write_text(plan)
        with (run / "metrics.jsonl").open("a") as file:
            for task, (correct, n) in (accuracy or {}).items():
                line = {"step": 12, "name": f"eval/{task}/test/accuracy_unmirrored", "value": correct / n, "count": n}
                file.write(json.dumps(line) + "\n")
        return run
