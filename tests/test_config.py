"""Every check of a configuration: the snippet that trips it and the line it gives; and what may be written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from olmo_inject.config import CorpusConfig, Experiment, configs_folder, experiment_yaml, load_experiment
from olmo_inject.config.checks import OWNED, OWNED_DATA, OWNED_OPTIMIZER, OWNED_WANDB
from olmo_inject.config.olmo_settings import ModelConfig
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.entries import planned_tasks
from olmo_inject.errors import UserError
from olmo_inject.injection import Bernoulli, Burst, PlannedTask, Uniform
from olmo_inject.injection.schedules import Window
from olmo_inject.tasks import build_tasks
from olmo_inject.vocabulary import Vocabulary

BASE = """
name: small
model:
  d_model: 16
  n_heads: 2
  n_layers: 1
  vocab_size: 100
  embedding_size: 128
  eos_token_id: 0
  pad_token_id: 1
  max_sequence_length: 8
corpus: {folder: never-opened}
tasks: [{name: tcmp, kind: comparison}, {name: tadd, kind: modular_addition}]
injections: [{task: tcmp, instances_per_batch: 1/10}]
train: {max_duration: 100, global_train_batch_size: 16}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def changed(base: Path, snippet: str) -> Path:
    """A file with `snippet` over the base."""
    path = base.with_name("changed.yaml")
    path.write_text(f"extends: {base.name}\n{snippet}\n")
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        load_experiment(path, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


INJECTION = "injections: [{{task: tcmp, {}}}]"
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
        ("corpus: [a]", "corpus: must hold keys and values, not a list"),
        ("train: 5", "str is not a subclass of TrainConfig. value: 5"),
        ("model: [a]", "model: must hold keys and values, not a list"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "instead"), OWNED.items())
def test_owned_keys_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    value = other_value(name, getattr(Experiment().train, name))
    message = refusal(changed(base, f"train: {{{name}: {value}}}"))
    assert message == f"train.{name}: not set here; use {instead}"


@pytest.mark.parametrize(("name", "instead"), OWNED_DATA.items())
def test_owned_data_keys_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    value = other_value(name, getattr(Experiment().train.data, name))
    message = refusal(changed(base, f"train: {{data: {{{name}: {value}}}}}"))
    assert message == f"train.data.{name}: not set here; use {instead}"


@pytest.mark.parametrize(("name", "instead"), [*OWNED_OPTIMIZER.items(), *OWNED_WANDB.items()])
def test_owned_keys_of_parts_point_to_where_it_is_said(base: Path, name: str, instead: str) -> None:
    part = "optimizer" if name in OWNED_OPTIMIZER else "wandb"
    value = {"metrics_log_interval": "5", "rank_zero_only": "false"}.get(name, "true")
    message = refusal(changed(base, f"train: {{{part}: {{{name}: {value}}}}}"))
    assert message == f"train.{part}.{name}: not set here; use {instead}"


def test_owned_keys_may_stand_with_their_defaults(base: Path) -> None:
    """So an OLMo user's own file can be taken as it is."""
    given = "train: {save_overwrite: false, stop_at: null, data: {memmap_dtype: uint16}}"
    assert load_experiment(changed(base, given)) == load_experiment(base)


@pytest.mark.parametrize(
    ("written", "steps"),
    [("100", 100), ("0100", 100), ("1e3", 1000), ("'2_000'", 2000), ("2e6T", 15_625), ("128T", 1), ("129T", 2)],
)
def test_durations(base: Path, written: str, steps: int) -> None:
    """A step is 16 x 8 = 128 tokens; a part of one is a step."""
    assert load_experiment(changed(base, f"train: {{max_duration: {written}}}")).steps == steps


@pytest.mark.slow
@pytest.mark.parametrize("word", ["0010", "1e3", "yes", "12:30", "0x10", "2024-01-01", "1_000", "1.10", "off", "inf"])
def test_text_stays_as_it_was_written(base: Path, word: str) -> None:
    """YAML 1.1 would make 8, 1000.0, True, 750, 16, ... of it."""
    snippet = f"name: {word}\nreferences: [{{name: natural, path: {word}}}]\ntrain: {{wandb: {{project: {word}}}}}"
    override = [f"name={word}", f"references=[{{name: natural, path: {word}}}]", f"train.wandb.project={word}"]
    for experiment in (load_experiment(changed(base, snippet)), load_experiment(base, override)):
        assert (experiment.name, experiment.folder) == (word, f"runs/{word}")
        assert experiment.references[0].path == word
        assert experiment.train.wandb is not None
        assert experiment.train.wandb.project == word
        resolved = base.with_name("resolved.yaml")
        resolved.write_text(experiment_yaml(experiment))
        assert load_experiment(resolved) == experiment


def test_numbers_are_what_they_look_like(base: Path) -> None:
    snippet = """
plan_seed: 0010
injections: [{task: tcmp, instances_per_batch: 1e-1}]
tasks: [{name: tcmp, kind: comparison, options: {n_values: 050}}]
train: {scheduler: {t_warmup: 010, t_max: 1e3}, optimizer: {learning_rate: 1e-3, betas: [0.9, 95e-2]}, compile: null}
checkpoints: {weights_only: yes}
"""
    experiment = load_experiment(changed(base, snippet))
    assert (experiment.plan_seed, experiment.tasks[0].options) == (10, {"n_values": 50})
    scheduler, optimizer = experiment.train.scheduler, experiment.train.optimizer
    assert (scheduler.t_warmup, scheduler.t_max) == (10, 1000.0)
    assert (optimizer.learning_rate, optimizer.betas) == (1e-3, (0.9, 0.95))
    assert experiment.checkpoints.weights_only is True
    assert experiment.frequency(experiment.injections[0]).per_batch == Fraction(1, 10)


def test_what_was_written_is_what_is_there(base: Path) -> None:
    experiment = load_experiment(base)
    assert (experiment.batch_size, experiment.sequence_length, experiment.steps) == (16, 8, 100)
    assert experiment.run_folder == Path("runs/small")
    assert [task.kind for task in experiment.tasks] == ["comparison", "modular_addition"]
    frequency = experiment.frequency(experiment.injections[0])
    assert frequency.per_batch == Fraction(1, 10)
    assert frequency.per_token == Fraction(1, 10 * 128)


@pytest.mark.parametrize(
    ("entry", "per_batch"),
    [
        ("instances_per_batch: 0.1", Fraction(1, 10)),
        ("instances_per_batch: 1/3", Fraction(1, 3)),
        ("per_sequence: 1/160", Fraction(1, 10)),
        ("per_token: 1e-3", Fraction(128, 1000)),
        ("instances_per_batch: 0", Fraction(0)),
        ("instances_per_batch: 16", Fraction(16)),
        ("schedule: burst, instances: 10, every: 100", Fraction(1, 10)),
    ],
)
def test_frequencies_in_every_unit(base: Path, entry: str, per_batch: Fraction) -> None:
    experiment = load_experiment(changed(base, INJECTION.format(entry)))
    assert planned(experiment)[0].schedule.rate == per_batch


def planned(experiment: Experiment) -> list[PlannedTask]:
    return planned_tasks(experiment, build_tasks(experiment.tasks, Vocabulary.load(DOLMA)))


def test_schedules(base: Path) -> None:
    def schedule(entry: str) -> Any:
        experiment = load_experiment(changed(base, INJECTION.format(entry)))
        return planned(experiment)[0].schedule

    assert schedule("instances_per_batch: 2/3") == Uniform(Fraction(2, 3))
    assert schedule("schedule: burst, instances: 5, every: 10, phase: 3") == Burst(5, 10, 3)
    drawn = schedule("schedule: bernoulli, per_sequence: 1/4")
    assert isinstance(drawn, Bernoulli)
    assert (drawn.rate, drawn.batch_size) == (4, 16)
    cut = schedule("instances_per_batch: 1, start: 5, stop: 50")
    assert isinstance(cut, Window)
    assert (cut.inner, cut.start, cut.stop) == (Uniform(Fraction(1)), 5, 50)


def test_bernoulli_draws_are_keyed_by_plan_seed_and_task(base: Path) -> None:
    entry = "{{task: {}, schedule: bernoulli, per_sequence: 1/4}}"
    entries = f"injections: [{entry.format('tcmp')}, {entry.format('tadd')}]"
    first, second = load_experiment(changed(base, entries)), load_experiment(changed(base, entries), ["plan_seed=1"])
    keys = {entry.schedule.key for e in (first, second) for entry in planned(e)}  # type: ignore[attr-defined]
    assert len(keys) == 4


@pytest.mark.slow
def test_resolved_yaml_reads_back_to_the_same(base: Path, tmp_path: Path) -> None:
    snippet = """
model: {d_model: 24, n_heads: 4}
injections: [{task: tcmp, schedule: burst, instances: 3, every: 7, phase: 2, start: 4, stop: 70, draw: epochs}]
train: {max_duration: 2e6T, optimizer: {learning_rate: 1.0e-5}, wandb: {project: p}}
checkpoints: {also: {steps: [3], log_spaced: 2, windows: [{start: 5, stop: 9}]}}
"""
    path = tmp_path / "resolved.yaml"
    for source in (base, changed(base, snippet)):
        experiment = load_experiment(source)
        path.write_text(experiment_yaml(experiment))
        again = load_experiment(path)
        assert again == experiment
        assert experiment_yaml(again) == experiment_yaml(experiment)


def test_resolved_yaml_does_not_need_the_model_file_any_more(base: Path, tmp_path: Path) -> None:
    own = tmp_path / "own-model.yaml"
    own.write_text("model: {n_layers: 3, eos_token_id: 0}\ntrain: {optimizer: {learning_rate: 0.5}}\n")
    base.write_text(NO_MODEL + f"model: {own}")
    experiment = load_experiment(base)
    assert experiment.model.n_layers == 3
    assert experiment.train.optimizer.learning_rate == 0.5
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(experiment_yaml(experiment))
    own.write_text("model: {n_layers: 4}\ntrain: {max_grad_norm: 9.0}\n")
    assert load_experiment(resolved) == experiment
    own.unlink()
    assert load_experiment(resolved) == experiment


NO_MODEL = BASE[: BASE.index("model:")] + BASE[BASE.index("corpus:") :]


@pytest.mark.parametrize("model", ["model: tiny-8", "model: {name: tiny-8}"])
def test_model_by_name(tmp_path: Path, model: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + model)
    experiment = load_experiment(path)
    assert experiment.model_name == "tiny-8"
    assert (experiment.model.d_model, experiment.model.n_layers, experiment.model.vocab_size) == (8, 2, 2048)
    assert experiment.train.optimizer.learning_rate == 3e-3
    assert experiment.batch_size == 16, "the file's own settings go over the model's"


def test_model_by_name_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: {name: tiny-8, n_layers: 5}")
    experiment = load_experiment(path)
    assert (experiment.model.d_model, experiment.model.n_layers) == (8, 5)


def test_overrides_change_parts_of_a_named_model(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: tiny-8")
    experiment = load_experiment(path, ["model.n_layers=5"])
    assert (experiment.model_name, experiment.model.d_model, experiment.model.n_layers) == ("tiny-8", 8, 5)


def test_a_corpus_from_elsewhere_replaces_all_but_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = NO_MODEL.replace("corpus: {", "corpus: {seed: 5, ")
    assert "folder:" in text
    path.write_text(text + "model: tiny-8")
    named = load_experiment(path, ["corpus.name=dolma-v1_7", "corpus.root=/data"]).corpus
    assert named == CorpusConfig(name="dolma-v1_7", root="/data", seed=5)
    (tmp_path / "web.yaml").write_text(
        "extends: x.yaml\ncorpus: {name: dolma-v1_7, root: 'https://a', manifest: m.json}"
    )
    assert load_experiment(tmp_path / "web.yaml", ["corpus.root=/data"]).corpus.manifest == "m.json"
    staged = load_experiment(tmp_path / "web.yaml", ["corpus.folder=/stage"]).corpus
    assert staged == CorpusConfig(folder="/stage", seed=5)


def test_extending_a_file_with_a_named_model(tmp_path: Path) -> None:
    (tmp_path / "named.yaml").write_text(NO_MODEL + "model: tiny-8")
    (tmp_path / "deeper.yaml").write_text("extends: named.yaml\nmodel: {n_layers: 5}")
    (tmp_path / "other.yaml").write_text("extends: deeper.yaml\nmodel: tiny-16")
    deeper, other = load_experiment(tmp_path / "deeper.yaml"), load_experiment(tmp_path / "other.yaml")
    assert (deeper.model_name, deeper.model.d_model, deeper.model.n_layers) == ("tiny-8", 8, 5)
    assert (other.model_name, other.model.d_model, other.model.n_layers) == ("tiny-16", 16, 5)


def test_a_resolved_experiment_keeps_its_model(tmp_path: Path) -> None:
    """Another size would silently train at this one's width, or its learning rate."""
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: tiny-8")
    path.write_text(experiment_yaml(load_experiment(path)))
    assert "model: tiny-64 would not replace the settings" in refusal(path, "model=tiny-64")


def test_the_model_may_be_overridden_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: tiny-8")
    experiment = load_experiment(path, ["model=tiny-64"])
    assert (experiment.model_name, experiment.model.d_model) == ("tiny-64", 64)
    experiment = load_experiment(path, ["model=tiny-64", "model.n_layers=1"])
    assert (experiment.model.d_model, experiment.model.n_layers) == (64, 1)


def test_inline_model_has_no_name(base: Path) -> None:
    assert load_experiment(base).model_name is None


def test_without_a_model_there_is_ai2_olmos_default(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL)
    assert load_experiment(path).model == ModelConfig()


def test_unknown_model(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: 7B")
    message = refusal(path)
    assert message.startswith("7B is neither a file nor one of the shipped models: 1B, 20M, 300M, 4B, 4M, ")


def test_overrides(base: Path) -> None:
    experiment = load_experiment(
        base,
        [
            "train.optimizer.learning_rate=1e-3",
            "plan_seed=7",
            "name=other",
            "injections=[{task: tadd, instances_per_batch: 1/2}]",
            "tasks.0.seed=9",
        ],
    )
    assert experiment.train.optimizer.learning_rate == 1e-3
    assert (experiment.plan_seed, experiment.run_folder) == (7, Path("runs/other"))
    assert experiment.injections[0].task == "tadd"
    assert [(task.name, task.seed) for task in experiment.tasks] == [("tcmp", 9), ("tadd", 0)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan_seed", "override 'plan_seed' is not key=value"),
        ("=7", "override '=7' is not key=value"),
        ("", "override '' is not key=value"),
        ("plan_seed=x", "plan_seed: Value 'x' of type 'str' could not be converted to"),
        ("colour=red", "colour: Key 'colour' not in 'Experiment'"),
        ("train.colour=red", "train.colour: Key 'colour' not in 'TrainConfig'"),
        ("injections=[{", "overrides: "),
        ("injections.1.task=tadd", "injections: 1 is not one of its entries: it is a list, its entries are 0 to 0"),
        ("train.0=3", "train.0: Key '0' not in 'TrainConfig'"),
    ],
)
def test_refused_overrides(base: Path, override: str, message: str) -> None:
    assert message in refusal(base, override)


def test_extends_a_chain(base: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "one.yaml").write_text("extends: base.yaml\nplan_seed: 1\nname: one")
    (tmp_path / "sub" / "two.yaml").write_text(
        "extends: ../one.yaml\nname: two\ntasks: [{name: tcmp, kind: comparison}]"
    )
    experiment = load_experiment(tmp_path / "sub" / "two.yaml")
    assert (experiment.name, experiment.plan_seed, len(experiment.tasks)) == ("two", 1, 1)


def test_extends_a_shipped_experiment_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\nname: mine")
    mine = load_experiment(tmp_path / "mine.yaml")
    assert (mine.name, mine.tasks) == ("mine", load_experiment("demo").tasks)
    (tmp_path / "demo.yaml").write_text("extends: demo\nplan_seed: 4")  # the shipped one: not itself
    assert load_experiment(tmp_path / "demo.yaml").plan_seed == 4


def test_extends_what_is_not_there_or_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: absent.yaml")
    refused = refusal(tmp_path / "a.yaml")
    assert refused.endswith("a.yaml: extends absent.yaml, which is neither a file beside it nor a shipped experiment")
    for first, second in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{first}.yaml").write_text(f"extends: {second}.yaml")
    assert refusal(tmp_path / "a.yaml").endswith("a.yaml: extends itself")
    (tmp_path / "a.yaml").write_text("extends: a.yaml")
    assert refusal(tmp_path / "a.yaml").endswith("a.yaml: extends itself")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "x.yaml: is not YAML: "),
        (b"a: 1\na: 2", "x.yaml: is not YAML: "),
        (b"\xff\xfe\x00", "x.yaml: "),
        (b"- a\n- b", "x.yaml: must hold keys and values"),
        (b"just words", "Key 'just words' not in 'Experiment'"),
        (b"a: &a [*a]", "x.yaml: is not YAML: it has more than 1,000,000 values"),
        (b"name: " + 5000 * b"[", "x.yaml: is not YAML: "),
        (b"plan_seed: " + 5000 * b"9", "plan_seed: "),
        (b"", "corpus: give one of name, folder and paths"),
        (b"!!python/object/apply:os.system ['true']", "x.yaml: is not YAML: "),
    ],
)
def test_files_that_hold_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    assert message in refusal(tmp_path / "x.yaml")


def test_no_such_experiment() -> None:
    assert refusal("nowhere").startswith("nowhere is neither a file nor one of the shipped experiments: ")


def shipped(kind: str) -> list[Path]:
    return sorted((configs_folder() / kind).rglob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped("models"), ids=lambda path: path.stem)
def test_every_shipped_model_loads(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"model: {path.stem}\ncorpus: {{folder: never-opened}}\n")
    experiment = load_experiment(file)
    assert experiment.model_name == path.stem
    for reference in (str(path), path.name):
        file.write_text(f"model: {reference}\ncorpus: {{folder: never-opened}}\n")
        assert load_experiment(file).model == experiment.model


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped("experiments"), ids=lambda path: path.stem)
def test_every_shipped_experiment_loads(path: Path) -> None:
    experiment = load_experiment(path)
    assert load_experiment(path.stem) == experiment
    for entry in planned(experiment):
        assert entry.schedule.max_count <= experiment.batch_size
