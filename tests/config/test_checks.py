"""Every check of a configuration: the snippet that trips it and the line it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from written import INJECTION, changed, refusal

from olmo_inject.config import Experiment, load_experiment
from olmo_inject.config.checks import OWNED, OWNED_DATA, OWNED_OPTIMIZER, OWNED_WANDB

RATE = "injections: [{{task: tcmp, instances_per_batch: 1, {}}}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snippet", "message"),
    [
        # Unknown keys, at every level.
        ("colour: red", "colour: Key 'colour' not in 'Experiment'"),
        ("corpus: {colour: red}", "corpus.colour: Key 'colour' not in 'CorpusConfig'"),
        ("tasks: [{name: tcmp, kind: comparison, colour: red}]", "colour: Key 'colour' not in 'TaskConfig'"),
        (INJECTION.format("colour: red"), "colour: Key 'colour' not in 'InjectionConfig'"),
        ("model: {colour: red}", "model.colour: Key 'colour' not in 'ModelConfig'"),
        ("train: {colour: red}", "train.colour: Key 'colour' not in 'TrainConfig'"),
        ("train: {optimizer: {colour: red}}", "train.optimizer.colour: Key 'colour' not in 'OptimizerConfig'"),
        ("train: {data: {colour: red}}", "train.data.colour: Key 'colour' not in 'DataConfig'"),
        ("checkpoints: {colour: red}", "checkpoints.colour: Key 'colour' not in 'CheckpointConfig'"),
        ("evaluation: {also: {windows: [{colour: red}]}}", "colour: Key 'colour' not in 'StepWindow'"),
        ("safety: {colour: red}", "safety.colour: Key 'colour' not in 'SafetyConfig'"),
        # Wrong types.
        ("plan_seed: one", "plan_seed: Value 'one' of type 'str' could not be converted to"),
        ("model: {d_model: wide}", "model.d_model: Value 'wide' of type 'str' could not be converted to"),
        ("model: {rope: perhaps}", "model.rope: Value 'perhaps' is not a valid bool (type str)"),
        ("train: {optimizer: {learning_rate: fast}}", "train.optimizer.learning_rate: Value 'fast' of type"),
        ("train: {optimizer: {name: sgd}}", "train.optimizer.name: Invalid value 'sgd', expected one of"),
        ("train: {global_train_batch_size: 16.5}", "train.global_train_batch_size: Value '16.5' of type 'str' could"),
        ("tasks: tcmp", "tasks: "),
        ("tasks: {name: tcmp}", "tasks: name is not one of its entries: it is a list, its entries are 0 to 1"),
        ("tasks: [tcmp]", "tasks"),
        ("corpus: [a]", "corpus: must hold keys and values (such as folder), not a list"),
        ("evaluation: {also: [5]}", "also: must hold keys and values (such as steps, log_spaced, windows), not a list"),
        ("checkpoints: {also: null}", "checkpoints.also: must not be null"),
        ("plan_seed: null", "plan_seed: must not be null"),
        ("train: 5", "str is not a subclass of TrainConfig. value: 5"),
        ("model: [a]", "model: must hold keys and values (such as d_model, n_heads, n_layers), not a list"),
        ("model: tiny-8", "model: tiny-8 would not replace the settings under `model`, which have no name"),
        ("model_name: tiny-8", "model_name: only in resolved experiments; write `model: NAME`"),
        ("name: ${nowhere}", "Interpolation key 'nowhere' not found"),
        # Sizes.
        ("train: {global_train_batch_size: 0}", "train.global_train_batch_size: 0 must be at least 1"),
        ("train: {device_train_microbatch_size: 0}", "train.device_train_microbatch_size: 0 must be at least 1"),
        ("model: {max_sequence_length: 0}", "model.max_sequence_length: 0 must be at least 1"),
        ("model: {max_sequence_length: -8}", "model.max_sequence_length: -8 must be at least 1"),
        ("model: {max_sequence_length: 4}", "model.max_sequence_length: 4 leaves no host text after the 4"),
        ("model: {d_model: 0}", "model.d_model: 0 must be at least 1"),
        ("model: {n_heads: 0}", "model.n_heads: 0 must be at least 1"),
        ("model: {n_heads: 3}", "model.n_heads: 3 does not divide d_model 16"),
        ("model: {n_heads: 16, rope: true}", "model.n_heads: rotary embeddings need an even head size, not 1"),
        ("model: {n_layers: 0}", "model.n_layers: 0 must be at least 1"),
        ("model: {vocab_size: 0}", "model.vocab_size: 0 must be at least 1"),
        ("model: {vocab_size: 129}", "model.embedding_size: 128 is less than vocab_size 129"),
        ("model: {eos_token_id: 100}", "model.eos_token_id: 100 is not in the vocabulary of 100"),
        ("model: {pad_token_id: -1}", "model.pad_token_id: -1 is not in the vocabulary of 100"),
        # Durations.
        ("train: {max_duration: 2ep}", "train.max_duration: '2ep': epochs are not accepted"),
        ("train: {max_duration: 0}", "train.max_duration: '0' is not a positive number of steps"),
        ("train: {max_duration: -5}", "train.max_duration: '-5' is not a positive number of steps"),
        ("train: {max_duration: 0T}", "train.max_duration: '0T' is not a positive number of steps, or of tokens"),
        ("train: {max_duration: '10.5'}", "train.max_duration: '10.5' is not a positive number of steps"),
        ("train: {max_duration: 12:30}", "train.max_duration: '12:30' is not a positive number of steps"),
        ("train: {max_duration: long}", "train.max_duration: 'long' is not a positive number of steps"),
        ("train: {max_duration: infT}", "train.max_duration: 'infT' is not a positive number of steps"),
        ("train: {max_duration: nanT}", "train.max_duration: 'nanT' is not a positive number of steps"),
        # Choices.
        ("train: {precision: bf16}", "train.precision: 'bf16' is not fp32 or amp_bf16"),
        ("train: {distributed_strategy: single}", "train.distributed_strategy: "),
        ("train: {eval_interval: 0}", "train.eval_interval: 0 must be at least 1"),
        ("train: {save_interval: 0}", "train.save_interval: 0 must be at least 1"),
        ("start_state: optimizer", "start_state: 'optimizer' is not weights or full"),
        ("checkpoints: {also: {steps: [-1]}}", "checkpoints.also.steps: -1 must be at least 0"),
        ("evaluation: {also: {log_spaced: -1}}", "evaluation.also.log_spaced: -1 must be at least 0"),
        ("evaluation: {batch_size: 0}", "evaluation.batch_size: 0 must be at least 1"),
        ("evaluation: {max_instances: 0}", "evaluation.max_instances: 0 must be at least 1"),
        ("safety: {spike_factor: 0}", "safety.spike_factor: 0.0 must be above 0, or null"),
        ("safety: {spike_window: 1}", "safety.spike_window: 1 must be at least 2"),
        # The corpus.
        ("corpus: {folder: null}", "corpus: give one of name, folder and paths"),
        ("corpus: {folder: x, paths: [a.npy]}", "corpus: give one of name, folder and paths"),
        ("corpus: {folder: null, paths: 'a[1].npy'}", 'corpus.paths: must be a list, such as ["a[1].npy"]'),
        ("corpus: {folder: null, paths: [{a: 1}]}", "corpus.paths: must be one value, not keys and values"),
        ("corpus: {folder: null, paths: [[a.npy]]}", "corpus.paths: must not be a list"),
        (
            "corpus: {folder: null, paths: ['https://x.org/a.npy']}",
            "corpus.paths: https://x.org/a.npy is an address; shards that lie elsewhere are read by corpus.root with",
        ),
        ("corpus: {folder: 's3://b/x'}", "corpus.folder: s3://b/x is an address; shards that lie elsewhere are read"),
        ("folder: s3://b/run", "folder: s3://b/run is an address; it must be a folder of this machine"),
        ("corpus: {tokenizer: other}", "corpus.tokenizer: not with corpus.folder, which decides it"),
        ("corpus: {dtype: uint32}", "corpus.dtype: not with corpus.folder, which decides it"),
        ("corpus: {vocab_size: 100}", "corpus.vocab_size: not with corpus.folder, which decides it"),
        # Injections.
        ("injections: [{task: sorting, instances_per_batch: 1}]", "task 'sorting' is not one of tcmp, tadd"),
        ("injections: [{instances_per_batch: 1}]", "injections: task '' is not one of tcmp, tadd"),
        ("tasks: []", "injections: task 'tcmp' is not one of none declared"),
        (INJECTION.format("schedule: repetitions"), "injections: tcmp: schedule repetitions needs times"),
        (INJECTION.format("times: 3, per_token: 0"), "tcmp: times belongs to schedule repetitions, not to uniform"),
        (INJECTION.format("schedule: repetitions, times: 0"), "tcmp: times: 0 must be at least 1"),
        (INJECTION.format("schedule: repetitions, times: 1, spread: odd"), "spread 'odd' is not one of even, random"),
        (INJECTION.format("schedule: repetitions, times: 1, per_token: 1"), "per_token: not with schedule repetitions"),
        (INJECTION.format("schedule: repetitions, times: 1, draw: epochs"), "draw belongs to the other schedules"),
        (INJECTION.format("schedule: at"), "injections: tcmp: schedule at needs file"),
        (INJECTION.format("schedule: at, file: x, start: 3"), "start and stop: not with schedule at"),
        (INJECTION.format("schedule: phases"), "injections: tcmp: schedule phases needs phases"),
        (INJECTION.format("schedule: phases, phases: [{start: 5, stop: 5, instances_per_batch: 1}]"),
         "phases.0: steps 5 to 5 are not a window after the one before"),
        (INJECTION.format("schedule: phases, phases: [{stop: 5}]"), "phases.0: instances_per_batch is missing"),
        (INJECTION.format("per_token: 0, place: middle"), "place 'middle' is not one of start, end, random, offset"),
        (INJECTION.format("per_token: 0, offset: 3"), "tcmp: offset 3 must be at least 0, and needs place offset"),
        (INJECTION.format("per_token: 0, eos: never"), "eos 'never' is not one of none, before, after, both"),
        (INJECTION.format("per_token: 0, per_row: 0"), "tcmp: per_row: 0 must be at least 1"),
        (INJECTION.format("schedule: bernoulli, per_token: 0, per_row: 2"), "per_row: schedule bernoulli draws"),
        (INJECTION.format("schedule: bernoulli, per_token: 0, longer: split"), "split: not with schedule bernoulli"),
        (INJECTION.format("per_token: 0, longer: split, place: end"), "longer: split needs place start and one"),
        (RATE.format("schedule: poisson"), "tcmp: schedule 'poisson' is not one of uniform, burst, bernoulli"),
        (RATE.format("draw: shuffled"), "injections: tcmp: draw 'shuffled' is not one of independent, epochs"),
        ("injections: [{task: tcmp}]", "tcmp: give exactly one of instances_per_batch, per_sequence, per_token"),
        (RATE.format("per_token: 1e-6"), "tcmp: give exactly one of instances_per_batch, per_sequence, per_token"),
        (RATE.format("every: 2"), "injections: tcmp: instances, every and phase belong to schedule burst"),
        (RATE.format("phase: 1"), "injections: tcmp: instances, every and phase belong to schedule burst"),
        (INJECTION.format("instances_per_batch: 17"), "tcmp: 17 instances per batch are more than its 16 rows"),
        (INJECTION.format("per_sequence: 1.1"), "tcmp: 17.6 instances per batch are more than its 16 rows"),
        (INJECTION.format("per_token: 1"), "tcmp: 128 instances per batch are more than its 16 rows"),
        (INJECTION.format("instances_per_batch: -1"), "injections: tcmp: instances_per_batch: -1 is negative"),
        (INJECTION.format("instances_per_batch: often"), "tcmp: instances_per_batch: 'often' is not a number or a"),
        (INJECTION.format("instances_per_batch: 1/0"), "tcmp: instances_per_batch: '1/0' is not a number or a"),
        (INJECTION.format("instances_per_batch: [1]"), "tcmp: instances_per_batch: [1] is not a number or a"),
        (INJECTION.format("instances_per_batch: true"), "tcmp: instances_per_batch: True is not a number or a"),
        (INJECTION.format("schedule: burst, instances: 5"), "tcmp: a burst takes instances and every"),
        (RATE.format("schedule: burst, instances: 5, every: 5"), "tcmp: a burst takes instances and every (and phase)"),
        (INJECTION.format("schedule: burst, instances: 0, every: 5"), "tcmp: instances: 0 must be at least 1"),
        (INJECTION.format("schedule: burst, instances: 5, every: 0"), "tcmp: every: 0 must be at least 1"),
        (INJECTION.format("schedule: burst, instances: 5, every: 5, phase: 5"), "tcmp: phase 5 is not in 0..4"),
        (INJECTION.format("schedule: burst, instances: 5, every: 5, phase: -1"), "tcmp: phase -1 is not in 0..4"),
        (RATE.format("start: -1"), "injections: tcmp: steps -1 to None are not a window"),
        (RATE.format("start: 5, stop: 5"), "injections: tcmp: steps 5 to 5 are not a window"),
    ],
)  # fmt: skip
def test_refused_in_one_line(base: Path, snippet: str, message: str) -> None:
    assert message in refusal(changed(base, snippet))


def other_value(name: str, default: Any) -> str:
    if name in ("model", "tokenizer"):
        return {"model": "{d_model: 24}", "tokenizer": "{identifier: other}"}[name]
    special = {
        "evaluators": "[{label: x, type: lm}]",
        "sharded_checkpointer": "local",
        "load_path_sharded_checkpointer": "local",
        "module_outputs_save_steps": "[1]",
        "paths": "[a.npy]",
        "datasets": "{a: [b.npy]}",
        "memmap_dtype": "uint32",
        "pad_direction": "left",
        "save_folder": "elsewhere",
        "speed_monitor": "{window_size: 7}",
    }
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return str(not default).lower()
    if isinstance(default, int):
        return str(default + 1)
    text = {"run_name", "load_path", "remote_save_folder", "hf_datasets_cache_dir"}
    return "elsewhere" if name in text else "true" if name == "new_style_checkpoints" else "7"


def said_of(instead: str) -> str:
    """Of a key that something replaces, and of one that nothing does."""
    nothing, _, reason = instead.partition(": ")
    return f"has no effect here: {reason}" if nothing == "nothing" else f"not set here; use {instead}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "instead"), OWNED.items())
def test_owned_keys_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    value = other_value(name, getattr(Experiment().train, name))
    message = refusal(changed(base, f"train: {{{name}: {value}}}"))
    assert message == f"train.{name}: {said_of(instead)}"


@pytest.mark.parametrize(("name", "instead"), OWNED_DATA.items())
def test_owned_data_keys_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    value = other_value(name, getattr(Experiment().train.data, name))
    message = refusal(changed(base, f"train: {{data: {{{name}: {value}}}}}"))
    assert message == f"train.data.{name}: {said_of(instead)}"


@pytest.mark.parametrize(("name", "instead"), [*OWNED_OPTIMIZER.items(), *OWNED_WANDB.items()])
def test_owned_keys_of_parts_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    part = "optimizer" if name in OWNED_OPTIMIZER else "wandb"
    value = {"metrics_log_interval": "5", "rank_zero_only": "false"}.get(name, "true")
    message = refusal(changed(base, f"train: {{{part}: {{{name}: {value}}}}}"))
    assert message == f"train.{part}.{name}: {said_of(instead)}"


def test_owned_keys_may_stand_with_their_defaults(base: Path) -> None:
    """So an OLMo user's own file can be taken as it is."""
    given = "train: {save_overwrite: false, stop_at: null, data: {memmap_dtype: uint16}}"
    assert load_experiment(changed(base, given)) == load_experiment(base)
