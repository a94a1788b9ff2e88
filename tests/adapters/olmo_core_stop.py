"""The example, ended after a step as an interruption would end it: `olmo_core_stop.py STEP CONFIG ...`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from olmo_core.train import prepare_training_environment, teardown_training_environment

from olmo_inject.adapters import olmo_core

example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "olmo_core_train.py"))
written = olmo_core.Injection.post_train_batch


def stop_after(self: olmo_core.Injection) -> None:
    """Leave the process once the step is written."""
    written(self)
    if self.recorder.global_step == int(sys.argv[1]):
        self.close()
        raise SystemExit(0)


olmo_core.Injection.post_train_batch = stop_after
prepare_training_environment(seed=1, backend="gloo")
try:
    example["train"](*sys.argv[2:])
finally:
    teardown_training_environment()
