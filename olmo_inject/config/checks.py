"""Every check of an experiment that needs no corpus."""

from __future__ import annotations

from olmo_inject.config.olmo_settings import TrainConfig, WandbConfig
from olmo_inject.config.ranges import INT32, check_ranges
from olmo_inject.config.schema import Experiment
from olmo_inject.config.stream_checks import check_corpus, check_folder, check_stream
from olmo_inject.config.train_checks import check_model, check_train
from olmo_inject.errors import UserError
from olmo_inject.steps import StepSelection


def check(experiment: Experiment) -> None:
    """Refuse what cannot be a run, and resolve `train.max_duration` to whole steps.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    _refuse_owned_keys(experiment.train)
    check_ranges(experiment)
    check_model(experiment.model)
    check_train(experiment.train, experiment.model)
    experiment.train.max_duration = _whole_steps(experiment)
    experiment.train.precision = experiment.train.precision or "fp32"
    if experiment.model.precision not in (None, experiment.train.precision):
        raise UserError(f"model.precision: {experiment.model.precision} is set by train.precision")
    _check_choices(experiment)
    check_stream(experiment, "model.max_sequence_length")


# Keys of ai2-olmo's TrainConfig that this project decides itself, and where to say it instead. An OLMo
# user's file may hold them with their default values; another value would be ignored, so it is refused.
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
    "auxiliary_loss_multiplier": "nothing: ai2-olmo's trainer weighs the z-loss by 1e-4 whatever it says",
    "device_eval_batch_size": "evaluation.batch_size",
    "speed_monitor": "nothing: steps and tokens a second are always measured",
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


def _refuse_owned_keys(train: TrainConfig) -> None:
    defaults = TrainConfig()
    for keys, given, default, prefix in (
        (OWNED, train, defaults, "train"),
        (OWNED_DATA, train.data, defaults.data, "train.data"),
        (OWNED_OPTIMIZER, train.optimizer, defaults.optimizer, "train.optimizer"),
        (OWNED_WANDB if train.wandb else {}, train.wandb, WandbConfig(), "train.wandb"),
    ):
        for name, instead in keys.items():
            if getattr(given, name) != getattr(default, name):
                raise UserError(f"{prefix}.{name}: not set here; use {instead}")


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
        raise UserError("start_state: full needs start_from, a checkpoint to go on from")
    experiment.checkpoints.also.check("checkpoints.also")
    experiment.evaluation.also.check("evaluation.also")
    _check_gradients(experiment)
    check_corpus(experiment)
    if experiment.start_from is not None:
        check_folder("start_from", experiment.start_from)


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
