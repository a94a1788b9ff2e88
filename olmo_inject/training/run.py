"""One rank of a training run: build, restore, train, close."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from olmo.config import DDPConfig, DistributedStrategy, TrainConfig
from olmo.optim import build_scheduler

from olmo_inject.config import Experiment
from olmo_inject.corpus.references import Reference, load_references
from olmo_inject.data import ExperimentData
from olmo_inject.errors import FoundByOneRank, UserError
from olmo_inject.runs.folder import (
    STOP_FILE,
    check_no_other_folder,
    delete_run,
    locked,
    prepare,
    remove_unused,
)
from olmo_inject.runs.metrics import Metrics, belongs_before, cut_back
from olmo_inject.runs.read import EVIDENCE_FILE, INDICES, METRICS, is_run
from olmo_inject.runs.same_run import check_same_run
from olmo_inject.steps import StepSelection
from olmo_inject.training.agreement import from_rank_0, on_every_rank
from olmo_inject.training.callbacks.callback import Callback
from olmo_inject.training.callbacks.checkpointing import Checkpointing
from olmo_inject.training.callbacks.evaluation import Evaluation
from olmo_inject.training.callbacks.evidence import Evidence
from olmo_inject.training.callbacks.gradient_cosines import GradientCosines
from olmo_inject.training.callbacks.injected_loss import InjectedLoss
from olmo_inject.training.callbacks.progress import Progress
from olmo_inject.training.callbacks.safety import Safety, past_losses
from olmo_inject.training.callbacks.wandb_run import WandbRun
from olmo_inject.training.checkpoints import on_disk, save_restore
from olmo_inject.training.checkpoints.hub import local_folder
from olmo_inject.training.checkpoints.weights import assign_weights, load_weights
from olmo_inject.training.checks import check_begin, check_ranks
from olmo_inject.training.leftovers import remove_leftovers
from olmo_inject.training.loader import build_loader, worker_deaths_told
from olmo_inject.training.olmo_config import model_config, train_config
from olmo_inject.training.parallel import (
    build_model,
    build_optimizer,
    process_group,
    settle_ddp_buckets,
)
from olmo_inject.training.rank_data import open_data, prepare_order
from olmo_inject.training.trainer import InjectionTrainer
from olmo_inject.utils.owned_folder import absent
from olmo_inject.utils.stop_signals import stop_signals, stop_with_parent

OPTIMIZER_SETTINGS = ("betas", "eps", "weight_decay")


def train_as_rank(
    experiment: Experiment, *, overwrite: bool = False, device: str = "auto", received: list[int] | None = None
) -> str:
    """Join torchrun's process group or create a group of one, call `train`, and leave the group.

    Args:
        experiment: as `load_experiment` returns it.
        overwrite: first delete the run in the folder.
        device: auto, cpu or cuda.
        received: gets the numbers of the signals that asked the run to stop.

    Returns:
        How the run ended, in a few words.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent(os.getppid())  # a user's own torchrun does not start the ranks with `rank`
    # ai2-olmo warns on every rank about random states after a change of world size; they are seeded in every step.
    logging.getLogger("olmo").setLevel(logging.ERROR)
    with process_group(device) as torch_device:
        return train(experiment, torch_device, overwrite=overwrite, received=received)


def train(
    experiment: Experiment, device: torch.device, *, overwrite: bool = False, received: list[int] | None = None
) -> str:
    """Train or resume the run that `experiment` describes, as one rank of the process group.

    Args:
        experiment: as `load_experiment` returns it.
        device: this rank's device.
        overwrite: first delete the run in the folder.
        received: gets the numbers of the signals that asked the run to stop.

    Returns:
        How the run ended, in a few words.

    Raises:
        UserError: on every rank, for every mistake that a user can correct.
    """
    with ExitStack() as stack:
        data = _check_and_lock(experiment, device, stack, overwrite)
        write = partial(_write_folder, experiment, data, overwrite)
        trainer = build_trainer(experiment, data, device, anew=overwrite, write_folder=write)
        stack.enter_context(worker_deaths_told())  # covers closing too, when torch may raise the error again
        stack.enter_context(_closing(trainer))
        if trainer.global_step >= experiment.steps:
            return f"already trained to step {trainer.global_step}: nothing to do"
        begun = time.monotonic()
        try:
            with _stop_requests(experiment, received) as trainer.should_stop:
                trainer.fit()
        except ConnectionError:  # of a loader worker
            raise
        except OSError as error:  # such as a full disk
            raise FoundByOneRank(f"{experiment.run_folder}: {error.strerror or error}") from error
        if trainer.global_step < experiment.steps:
            return f"stopped at step {trainer.global_step}, checkpoint written; the same command continues"
        return f"trained to step {trainer.global_step} in {time.monotonic() - begun:.0f} s"


@contextmanager
def _closing(trainer: InjectionTrainer) -> Iterator[None]:
    """Close the trainer; after an error, further errors in closing are suppressed (a disk that is still full)."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            trainer.close(exit_code=1)
        raise
    trainer.close()


def _check_and_lock(experiment: Experiment, device: torch.device, stack: ExitStack, overwrite: bool) -> ExperimentData:
    """Check everything that needs no model, on every rank; rank 0 locks the folder. Nothing else is written."""
    folder, first = experiment.run_folder, dist.get_rank() == 0
    check_ranks(experiment, dist.get_world_size(), device.type)
    data = open_data(experiment)
    with on_every_rank(f"cannot prepare {folder}"):
        if first:
            check_no_other_folder(folder, overwrite=overwrite)
            made = absent(folder)
            stack.enter_context(locked(folder))
            stack.callback(remove_unused, folder, made)
            if is_run(folder) and not overwrite:
                check_same_run(experiment, data)
    return data


def _write_folder(experiment: Experiment, data: ExperimentData, overwrite: bool) -> None:
    """Write the run folder, after all checks have passed (one process)."""
    folder = experiment.run_folder
    if overwrite:
        delete_run(folder)
    prepare(experiment, data, on_disk.first_step_of(experiment, on_disk.latest(folder)))
    remove_leftovers(experiment)
    (folder / STOP_FILE).unlink(missing_ok=True)


def runtime_config(experiment: Experiment, world_size: int) -> TrainConfig:
    """The TrainConfig for ai2-olmo's loop: the user's, with the values that this project sets."""
    cfg = train_config(experiment.train)
    cfg.model = model_config(experiment.model)
    cfg.run_name = experiment.name
    cfg.save_folder = str(experiment.run_folder)
    cfg.device_train_batch_size = experiment.batch_size // world_size
    cfg.device_train_microbatch_size = min(cfg.device_train_microbatch_size, cfg.device_train_batch_size)
    cfg.device_train_grad_accum = -(-cfg.device_train_batch_size // cfg.device_train_microbatch_size)
    cfg.stop_at = experiment.steps  # if unset, ai2-olmo trains ten steps more
    cfg.canceled_check_interval = 1
    cfg.save_interval = None  # a callback writes checkpoints
    cfg.wandb = None  # a callback logs to W&B
    cfg.data.drop_last = True
    if cfg.distributed_strategy == DistributedStrategy.ddp and cfg.ddp is None:
        cfg.ddp = DDPConfig()  # if unset, ai2-olmo reduces gradients per micro-batch instead of per batch
    return cfg


def build_trainer(
    experiment: Experiment,
    data: ExperimentData,
    device: torch.device,
    first_step: int = 0,
    *,
    anew: bool = False,
    write_folder: Callable[[], None] = lambda: None,
) -> InjectionTrainer:
    """Build the trainer, restore it from its run folder and cut its logs back to that step (collective).

    Args:
        experiment: the run.
        data: its corpus and plan.
        device: this rank's device.
        first_step: first step of new weights, if not 0.
        anew: ignore the run's own checkpoints, since they are about to be deleted.
        write_folder: called by rank 0 after all checks, before anything is written.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    cfg = runtime_config(experiment, world)
    cfg.data.pin_memory |= device.type == "cuda"  # else a copy to the device is not asynchronous
    model, dist_model = build_model(cfg, device)
    settle_ddp_buckets(dist_model, cfg)
    optim = build_optimizer(cfg, dist_model)
    trainer = InjectionTrainer(
        cfg=cfg,
        model=model,
        dist_model=dist_model,
        optim=optim,
        scheduler=build_scheduler(cfg),
        train_loader=build_loader(data.corpus, cfg, rank, world),
        device=device,
        evaluators=[],
    )
    restored = _restore(experiment, trainer, anew)
    if first_step:
        trainer.begin_at(first_step)
    with on_every_rank("the corpus lacks what this rank reads"):
        data.order.require(range(trainer.global_step, experiment.steps), np.arange(rank, experiment.batch_size, world))
    folder = experiment.run_folder
    with on_every_rank("cannot read the references"):
        references = load_references(experiment.reference_paths, data.source.vocabulary, experiment.sequence_length)
    with on_every_rank(f"cannot write {folder}"):
        if rank == 0:
            if not restored and not anew and (folder / METRICS).exists():
                at = trainer.global_step
                print(f"{experiment.name}: begins again at step {at}, without a checkpoint of its own", file=sys.stderr)
            write_folder()
            for reference in references:
                reference.save(folder / "references" / f"{reference.name}.json")
            # A run without a checkpoint begins anew, so its evaluations before the first step are dropped too.
            keep = belongs_before(trainer.global_step) if restored else lambda line: False
            for name in (METRICS, EVIDENCE_FILE):
                cut_back(folder / name, keep)
    with on_every_rank(f"cannot write {folder}"):  # after rank 0, which may have deleted an older run
        for old in sorted((folder / INDICES).glob("*.tsv"))[rank::world]:
            # ai2-olmo counts from 1: step n in the file is plan step n - 1.
            cut_back(old, lambda line: restored and int(line.split("\t", 1)[0]) <= trainer.global_step)
    prepare_order(data)
    losses = from_rank_0(lambda: past_losses(folder / METRICS, experiment.safety.spike_window), f"cannot read {folder}")
    with on_every_rank(f"cannot write {folder}"):
        if cfg.save_data_indices:
            indices = folder / INDICES
            indices.mkdir(exist_ok=True)
            trainer.indices_file = (indices / f"rank{rank}-of-{world}.tsv").open("a", encoding="utf-8")
        trainer.metrics = Metrics(folder / METRICS if rank == 0 else None)
        trainer.resumed = restored
        trainer.callbacks = _build_callbacks(experiment, data, references, trainer.metrics, losses)
    return trainer


def _build_callbacks(
    experiment: Experiment, data: ExperimentData, references: list[Reference], metrics: Metrics, losses: list[float]
) -> list[Callback]:
    """The callbacks in the order in which they are called. `losses` are those of the last steps before a resume."""
    train, folder, first = experiment.train, experiment.run_folder, dist.get_rank() == 0
    callbacks: list[Callback] = []
    if train.wandb is not None:  # it listens to metrics, so it comes before the measuring callbacks
        callbacks.append(WandbRun(experiment))
    callbacks += [
        InjectedLoss(data.corpus),
        Evidence(folder if first else None),
        Safety(experiment.safety, losses),
        Evaluation(experiment.evaluation, data.tasks, references, train.eval_interval, experiment.steps),
    ]
    if experiment.gradients.at != StepSelection():
        callbacks.append(GradientCosines(experiment.gradients, data.corpus, data.tasks))
    if first:
        callbacks.append(Progress(experiment, data, metrics))
    # Checkpoints come last, so that a step's measurements are on disk before its checkpoint.
    keep = train.save_num_checkpoints_to_keep
    callbacks.append(Checkpointing(experiment.checkpoints, train.save_interval, keep, experiment.steps))
    return callbacks


def _restore(experiment: Experiment, trainer: InjectionTrainer, anew: bool) -> bool:
    """Restore the run's last full checkpoint (True), or else start from `start_from` (False)."""
    # Only rank 0 looks, since on a network file system another node may not see the newest checkpoint yet.
    folder = experiment.run_folder
    own = from_rank_0(lambda: None if anew else on_disk.latest(folder), f"cannot read {folder}")
    if own is not None:
        if own.step > experiment.steps:
            raise UserError(f"train.max_duration: {experiment.steps} steps, but {folder} is at step {own.step}")
        trainer.load_trainer_state_dict(save_restore.restore(own, trainer.dist_model, trainer.optim))
        trainer.last_saved = own
        return True
    if experiment.start_from is not None:
        start = Path(experiment.start_from)
        if experiment.start_state == "full":
            with on_every_rank(f"start_from: {start}"):
                parent = on_disk.read_checkpoint(start)
            own_settings = [dict(group) for group in trainer.optim.param_groups]
            state = save_restore.restore(parent, trainer.dist_model, trainer.optim)
            trainer.load_trainer_state_dict(state)
            for group, settings in zip(trainer.optim.param_groups, own_settings, strict=True):
                # The restored settings are the parent's. Of these only the learning rate is set in every step.
                group.update({name: settings[name] for name in OPTIMIZER_SETTINGS if name in settings})
            _check_branch(experiment, trainer)
            check_begin(experiment, trainer.global_step)
        else:
            with on_every_rank(f"start_from: {start}"):
                weights = load_weights(local_folder(experiment.start_from), trainer.cfg.model)
            assign_weights(trainer.dist_model, weights)
    return False


def _check_branch(experiment: Experiment, trainer: InjectionTrainer) -> None:
    """Check that the branch's steps are the same positions as its parent's."""
    seen, step = trainer.global_train_examples_seen_this_epoch, trainer.global_step
    if seen != step * experiment.batch_size:
        raise UserError(
            f"train.global_train_batch_size: {experiment.batch_size}, but {experiment.start_from} has read {seen} rows "
            f"in {step} steps; a branch keeps the batch, or starts with start_state: weights"
        )


@contextmanager
def _stop_requests(experiment: Experiment, received: list[int] | None) -> Iterator[Callable[[], bool]]:
    """Requests to stop: a signal on any rank, which torchrun passes to all; on rank 0 the stop file and time limit."""
    stop_file, limit = experiment.run_folder / STOP_FILE, experiment.train.time_limit
    begun, first = time.monotonic(), dist.get_rank() == 0
    with stop_signals(received) as received:

        def should_stop() -> bool:
            late = limit is not None and time.monotonic() - begun >= limit
            # os.path.exists takes a fifth of the time of Path.exists, and this runs in every step.
            return bool(received) or (first and (late or os.path.exists(stop_file)))  # noqa: PTH110

        yield should_stop
