"""Checks of an experiment that do not need its corpus."""

from __future__ import annotations

from collections.abc import Sequence

from olmo_inject.config.olmo_settings import TrainConfig, WandbConfig
from olmo_inject.config.ranges import check_ranges
from olmo_inject.config.schema import (
    DRAWS,
    LONGER,
    SCHEDULES,
    SPREADS,
    CorpusConfig,
    Described,
    Experiment,
    InjectionConfig,
)
from olmo_inject.config.train_checks import check_model, check_train
from olmo_inject.errors import UserError
from olmo_inject.injection.frequency import UNITS
from olmo_inject.injection.placement import EOS, PLACES
from olmo_inject.steps import StepSelection
from olmo_inject.tasks import SPLICED_TOKENS, check_name
from olmo_inject.tasks.registry import default_fraction
from olmo_inject.utils.number_ranges import INT32


def check(experiment: Experiment) -> None:
    """Validate an experiment, and resolve `train.max_duration` to a whole number of steps.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    _check_owned_keys(experiment.train)
    check_ranges(experiment)
    check_model(experiment.model)
    check_train(experiment.train, experiment.model)
    experiment.train.max_duration = _whole_steps(experiment)
    experiment.train.precision = experiment.train.precision or "fp32"
    if experiment.model.precision not in (None, experiment.train.precision):
        raise UserError(f"model.precision: {experiment.model.precision} is set by train.precision")
    _check_choices(experiment)
    check_stream(experiment, "model.max_sequence_length")


def check_stream(experiment: Described, length: str) -> None:
    """Validate what experiments of all trainers share: tasks, injections and references.

    Args:
        experiment: what to validate; a missing share of the train half is filled in.
        length: the key of its sequence length, for messages.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    names = [task.name for task in experiment.tasks]
    for name in names:
        check_name(name, "tasks")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"tasks: two are named {twice[0]}")
    for injection in experiment.injections:
        _check_injection(experiment, injection, names)
    _check_references(experiment, names)
    if experiment.injections and experiment.sequence_length < SPLICED_TOKENS + 1:
        raise UserError(
            f"{length}: {experiment.sequence_length} leaves no host text after the {SPLICED_TOKENS} spliced tokens"
        )
    for task in experiment.tasks:
        if task.train_fraction is None:
            task.train_fraction = default_fraction(task.kind)


NOTHING = "nothing: "  # instead of a key: begins the reason why there is none
# Keys of ai2-olmo's TrainConfig that this project sets itself, and what to use instead. An OLMo user's file may hold
# them with their default values. Another value is an error, since it would have no effect.
OWNED = {
    "model": "model",
    "run_name": "name",
    "save_folder": "folder",
    "load_path": "start_from",
    "try_load_latest_save": "nothing: a rerun always resumes",
    "restore_dataloader": "start_state",
    "reset_optimizer_state": "start_state",
    "reset_trainer_state": "start_state",
    "fast_forward_batches": "nothing: skipping batches would move every injection",
    "epoch": "nothing: positions run on through all epochs",
    "tokenizer": "corpus.tokenizer",
    "evaluators": "evaluation",
    "eval_on_load": "nothing: the start is always evaluated",
    "eval_subset_num_batches": "evaluation.max_instances",
    "stop_at": "train.max_duration",
    "stop_after": "train.max_duration",
    "dry_run": "olmo-inject plan",
    "save_interval_unsharded": "train.save_interval",
    "save_interval_ephemeral": "train.save_interval",
    "save_num_unsharded_checkpoints_to_keep": "train.save_num_checkpoints_to_keep",
    "save_overwrite": "--overwrite",
    "force_save_unsharded": "olmo-inject unshard",
    "no_pre_train_checkpoint": "checkpoints.also",
    "remote_save_folder": "a mounted folder",
    "sharded_checkpointer": "nothing: sharded checkpoints are in ai2-olmo-core's format",
    "load_path_sharded_checkpointer": "start_from",
    "new_style_checkpoints": "nothing: sharded checkpoints are in ai2-olmo-core's format",
    "device_train_batch_size": "train.global_train_batch_size",
    "device_train_grad_accum": "train.device_train_microbatch_size",
    "canceled_check_interval": "nothing: it is checked every step",
    "extra_steps_after_cancel": "nothing: a cancelled run saves and stops at once",
    "early_stopping_factor": "safety.spike_factor",
    "module_outputs_save_steps": "olmo-inject analyze",
    "hf_datasets_cache_dir": "nothing: it is deprecated in ai2-olmo",
    "auxiliary_loss_multiplier": "nothing: ai2-olmo's trainer ignores it and always weighs the z-loss by 1e-4",
    "device_eval_batch_size": "evaluation.batch_size",
    "speed_monitor": "nothing: steps and tokens per second are always measured",
}
OWNED_DATA = {
    "paths": "corpus.paths",
    "datasets": "corpus.paths",
    "memmap_dtype": "corpus.dtype",
    "seed": "corpus.seed",
    "generate_attention_mask": "nothing: rows are full, there is no padding to mask",
    "pad_direction": "nothing: rows are full, there is no padding",
}
OWNED_OPTIMIZER = {
    "metrics_log_interval": "nothing: gradient norm and learning rate of every step are in metrics.jsonl",
    "record_update_metrics": "nothing: gradient norm and learning rate of every step are in metrics.jsonl",
}
OWNED_WANDB = {
    "log_artifacts": "nothing: checkpoints stay in the run folder",
    "rank_zero_only": "nothing: one W&B run holds what all ranks measured",
}


def _check_owned_keys(train: TrainConfig) -> None:
    defaults = TrainConfig()
    for keys, given, default, prefix in (
        (OWNED, train, defaults, "train"),
        (OWNED_DATA, train.data, defaults.data, "train.data"),
        (OWNED_OPTIMIZER, train.optimizer, defaults.optimizer, "train.optimizer"),
        (OWNED_WANDB if train.wandb else {}, train.wandb, WandbConfig(), "train.wandb"),
    ):
        for name, instead in keys.items():
            if getattr(given, name) != getattr(default, name):
                reason = instead.removeprefix(NOTHING)
                problem = f"not set here; use {instead}" if reason == instead else f"has no effect here: {reason}"
                raise UserError(f"{prefix}.{name}: {problem}")


def _whole_steps(experiment: Experiment) -> int:
    given = str(experiment.train.max_duration).strip()
    if given.endswith("ep"):
        raise UserError(
            f"train.max_duration: {given!r}: epochs are not accepted, since positions run on through them; "
            "give steps, or tokens such as 2e9T"
        )
    per_step = experiment.batch_size * experiment.sequence_length
    try:
        value = float(given.removesuffix("T"))
        steps = -(-int(value) // per_step) if given.endswith("T") else int(value)
        if not 1 <= steps <= INT32 or (not given.endswith("T") and steps != value):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"train.max_duration: {given!r} is not a positive number of steps, or of tokens such as 2e9T, "
            f"and at most {INT32:,} steps"
        ) from None
    return steps


def _check_choices(experiment: Experiment) -> None:
    if experiment.start_state == "full" and experiment.start_from is None:
        raise UserError("start_state: full needs start_from, the checkpoint to continue from")
    experiment.checkpoints.also.check("checkpoints.also")
    experiment.evaluation.also.check("evaluation.also")
    _check_gradients(experiment)
    if experiment.start_from is not None and "://" in experiment.start_from:
        raise UserError(
            f"start_from: {experiment.start_from} is an address; give a folder of this machine, or OWNER/NAME@REVISION "
            "of the Hugging Face hub"
        )
    check_corpus(experiment)


def check_corpus(experiment: Described, *, may_be_none: bool = False) -> None:
    """Validate the names of the run folder and the corpus.

    Args:
        experiment: what to validate.
        may_be_none: whether the corpus may name no shards, because another loader reads the rows.

    Raises:
        UserError: a value is invalid; the message names the key, the value and what is allowed.
    """
    if "://" in experiment.folder:
        raise UserError(f"folder: {experiment.folder} is an address; it must be a folder of this machine")
    corpus = experiment.corpus
    for path in [corpus.folder or "", *corpus.paths]:
        if "://" in path:
            where = "folder" if path == corpus.folder else "paths"
            raise UserError(
                f"corpus.{where}: {path} is an address; shards that lie elsewhere are read by corpus.root with a "
                "corpus.name: of configs/corpora, such as olmo-mix-1124, or a file like those"
            )
    if corpus.sequences is not None and corpus.sequences < experiment.batch_size:
        raise UserError(f"corpus.sequences: {corpus.sequences} do not fill one batch of {experiment.batch_size}")
    given = [key for key in ("name", "folder", "paths") if getattr(corpus, key)]
    if len(given) != 1 and not (may_be_none and not given):
        raise UserError(f"corpus: give one of name, folder and paths, not {' and '.join(given) or 'none'}")
    for name in ("dtype", "tokenizer", "vocab_size"):
        if given not in ([], ["paths"]) and getattr(corpus, name) != getattr(CorpusConfig(), name):
            raise UserError(f"corpus.{name}: not with corpus.{given[0]}, which decides it")
    for name in ("root", "manifest"):
        if given != ["name"] and getattr(corpus, name) is not None:
            raise UserError(f"corpus.{name}: only with corpus.name")


def _check_gradients(experiment: Experiment) -> None:
    config, model = experiment.gradients, experiment.model
    config.at.check("gradients.at")
    if config.at == StepSelection():
        return
    if config.layer >= model.n_layers:
        raise UserError(f"gradients.layer: {config.layer} is not in 0..{model.n_layers - 1}, the model's layers")
    neurons = (model.mlp_hidden_size or model.mlp_ratio * model.d_model) // 2  # gate and up are counted together
    if config.neurons > neurons:
        raise UserError(f"gradients.neurons: {config.neurons} is more than the {neurons} of the model's MLPs")
    if experiment.train.data.generate_doc_lengths:
        raise UserError("gradients.at: not with train.data.generate_doc_lengths (document masking)")


def _check_injection(experiment: Described, injection: InjectionConfig, names: Sequence[str]) -> None:
    where = f"injections: {injection.task}"
    if injection.task not in names:
        raise UserError(f"injections: task {injection.task!r} is not one of {', '.join(names) or 'none declared'}")
    if injection.schedule not in SCHEDULES:
        raise UserError(f"{where}: schedule {injection.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if injection.draw not in DRAWS:
        raise UserError(f"{where}: draw {injection.draw!r} is not one of {', '.join(DRAWS)}")
    units = [unit for unit in UNITS if getattr(injection, unit) is not None]
    burst_keys = [name for name in ("instances", "every") if getattr(injection, name) is not None]
    if injection.schedule == "burst":
        if units or len(burst_keys) != 2:
            raise UserError(f"{where}: a burst takes instances and every (and phase), no rate")
        _positive(f"{where}: instances", injection.instances)
        every = _positive(f"{where}: every", injection.every)
        if not 0 <= injection.phase < every:
            raise UserError(f"{where}: phase {injection.phase} is not in 0..{every - 1}")
    else:
        if burst_keys or injection.phase:
            raise UserError(f"{where}: instances, every and phase belong to schedule burst")
        if injection.schedule not in ("uniform", "bernoulli"):
            if units:
                raise UserError(f"{where}: {units[0]}: not with schedule {injection.schedule}")
        elif len(units) != 1:
            raise UserError(f"{where}: give exactly one of {', '.join(UNITS)}")
    if units:
        rate = experiment.frequency(injection).per_batch
        if rate > experiment.batch_size:
            raise UserError(
                f"{where}: {float(rate):g} instances per batch are more than its {experiment.batch_size} rows"
            )
    _check_schedule_keys(experiment, injection, where)
    _check_place(injection, where)
    if injection.start < 0 or (injection.stop is not None and injection.stop <= injection.start):
        raise UserError(f"{where}: steps {injection.start} to {injection.stop} are not a window")
    if injection.start >= experiment.steps:
        raise UserError(f"{where}: start {injection.start} is beyond the run's {experiment.steps} steps")


def _check_schedule_keys(experiment: Described, injection: InjectionConfig, where: str) -> None:
    """Check the keys of schedules `repetitions`, `at` and `phases`, and that no other schedule has them."""
    given = {"times": injection.times, "file": injection.file, "phases": injection.phases or None}
    needed = {"repetitions": "times", "at": "file", "phases": "phases"}
    for schedule, name in needed.items():
        if (schedule == injection.schedule) != (given[name] is not None):
            if schedule == injection.schedule:
                raise UserError(f"{where}: schedule {schedule} needs {name}")
            raise UserError(f"{where}: {name} belongs to schedule {schedule}, not to {injection.schedule}")
    if injection.schedule == "repetitions":
        _positive(f"{where}: times", injection.times)
    elif injection.spread != "even":
        raise UserError(f"{where}: spread belongs to schedule repetitions, not to {injection.schedule}")
    if injection.spread not in SPREADS:
        raise UserError(f"{where}: spread {injection.spread!r} is not one of {', '.join(SPREADS)}")
    if injection.draw != "independent" and injection.schedule in ("repetitions", "at"):
        raise UserError(f"{where}: draw belongs to the other schedules, not to {injection.schedule}")
    if (injection.start or injection.stop is not None) and injection.schedule in ("at", "phases"):
        raise UserError(f"{where}: start and stop: not with schedule {injection.schedule}, which lists its steps")
    beyond = 0
    for number, phase in enumerate(injection.phases):
        stop = experiment.steps if phase.stop is None else phase.stop
        if not beyond <= phase.start < stop or phase.start >= experiment.steps:
            raise UserError(
                f"{where}: phases.{number}: steps {phase.start} to {phase.stop} are not a window after the one before"
            )
        if phase.instances_per_batch is None:
            raise UserError(f"{where}: phases.{number}: instances_per_batch is missing")
        beyond = stop


def _check_place(injection: InjectionConfig, where: str) -> None:
    for name, allowed in (("place", PLACES), ("eos", tuple(EOS)), ("longer", LONGER)):
        if getattr(injection, name) not in allowed:
            raise UserError(f"{where}: {name} {getattr(injection, name)!r} is not one of {', '.join(allowed)}")
    if injection.offset < 0 or (injection.offset and injection.place != "offset"):
        raise UserError(f"{where}: offset {injection.offset} must be at least 0, and needs place offset")
    _positive(f"{where}: per_row", injection.per_row)
    if injection.per_row > 1 and injection.schedule == "bernoulli":
        raise UserError(f"{where}: per_row: schedule bernoulli draws each row for one instance")
    if injection.longer == "split" and (injection.place != "start" or injection.per_row > 1):
        raise UserError(f"{where}: longer: split needs place start and one instance per_row")
    if injection.longer == "split" and injection.schedule in ("at", "bernoulli"):
        raise UserError(f"{where}: longer: split: not with schedule {injection.schedule}")


def _check_references(experiment: Described, tasks: Sequence[str]) -> None:
    taken = set(tasks)
    for reference in experiment.references:
        check_name(reference.name, "references")
        if reference.name in taken:
            raise UserError(
                f"references: name {reference.name!r} is used twice: all references and tasks need unique names"
            )
        if not reference.path:
            raise UserError(f"references: {reference.name}: path is missing: a file of `corpus scan --references`")
        taken.add(reference.name)


def _positive(where: str, value: int | None) -> int:
    if value is None or value < 1:
        raise UserError(f"{where}: {value} must be at least 1")
    return value
