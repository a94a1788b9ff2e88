"""Log to Weights & Biases if `train.wandb` is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from omegaconf import OmegaConf

from olmo_inject.config import Experiment
from olmo_inject.runs.metrics import EVALUATION
from olmo_inject.runs.read import PLAN
from olmo_inject.training.agreement import on_every_rank
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.trainer import InjectionTrainer
from olmo_inject.utils.files import read_json

STEP = "plan_step"


class WandbRun(Callback):
    """Logs one W&B run per run folder, across restarts, from rank 0 only.

    Every value is drawn against `plan_step`, since evaluations and training steps interleave and W&B's own counter only
    increases.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._run: Any = None

    def before_first_step(self, trainer: InjectionTrainer) -> None:
        """Open or resume the W&B run (collective).

        Raises:
            UserError: Weights & Biases refuses the run: no API key or no network.
        """
        with on_every_rank("train.wandb"):
            if dist.get_rank() == 0:
                self._open(trainer)

    def on_close(self, trainer: InjectionTrainer) -> None:
        """Close the run."""
        if self._run is not None:
            self._run.finish()

    def _open(self, trainer: InjectionTrainer) -> None:
        import wandb  # takes a second, which runs that do not log there are spared

        config = self.experiment.train.wandb
        assert config is not None
        self._run = wandb.init(
            id=read_json(self.experiment.run_folder / PLAN)["run_id"],  # a restart keeps it
            resume="allow",
            reinit="create_new",  # ai2-olmo's loop would log to a process-wide run and poll it
            dir=self.experiment.run_folder,
            project=config.project,
            entity=config.entity,
            group=config.group,
            name=config.name or self.experiment.name,
            tags=config.tags,
            config=OmegaConf.to_container(OmegaConf.structured(self.experiment)),  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self._interval = config.log_interval
        trainer.metrics.listen(self._log)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if step % self._interval == 0 or any(name.startswith(EVALUATION) for name in values):
            self._run.log({STEP: step, **values})
