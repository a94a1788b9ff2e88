"""Remove what killed commands leave in a run folder."""

from __future__ import annotations

from contextlib import suppress

from olmo_inject.config import Experiment
from olmo_inject.errors import UserError
from olmo_inject.runs.folder import locked
from olmo_inject.training.checkpoints import on_disk


def remove_leftovers(experiment: Experiment) -> None:
    """Remove half-written files and checkpoints, and checkpoints beyond the number to keep.

    The caller holds the folder's lock.
    """
    folder, keep = experiment.run_folder, experiment.train.save_num_checkpoints_to_keep
    for place in (folder, folder / "tasks", folder / "references"):
        for left in place.glob(".*.tmp"):
            if left.is_file():
                left.unlink()
    on_disk.remove_unfinished(folder)
    if keep > 0:
        on_disk.prune(folder, keep, listed=experiment.checkpoints.also)


def tidy_finished(experiment: Experiment) -> None:
    """Call `remove_leftovers` on a finished run, if it is writable and not in use."""
    with suppress(UserError, OSError), locked(experiment.run_folder):
        remove_leftovers(experiment)
