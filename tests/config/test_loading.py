"""Which files and overrides make up an experiment: schedules, named models, `extends`, what is shipped."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from written import BASE, INJECTION, changed, refusal

from olmo_inject.config import (
    CorpusConfig,
    Experiment,
    configs_folder,
    experiment_yaml,
    load_experiment,
)
from olmo_inject.config.olmo_settings import ModelConfig
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.injection import Bernoulli, Burst, PlannedTask, Uniform
from olmo_inject.injection.schedules import Window
from olmo_inject.plan_entries import planned_tasks
from olmo_inject.tasks import build_tasks
from olmo_inject.vocabulary import Vocabulary

IDS = Vocabulary.without_tokenizer(50280, 50279, 1)


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


def planned(experiment: Experiment, vocabulary: Vocabulary = IDS) -> list[PlannedTask]:
    return planned_tasks(experiment, build_tasks(experiment.tasks, vocabulary))


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


def test_overrides_with_nested_keys_leave_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(NO_MODEL + "model: tiny-16")
    nested = ["train.max_duration=9", "model={name: tiny-8, n_layers: 5}", "train={seed: 3, optimizer: {eps: 0.5}}"]
    experiment = load_experiment(path, nested)
    assert (experiment.model_name, experiment.model.d_model, experiment.model.n_layers) == ("tiny-8", 8, 5)
    train = experiment.train
    assert (train.max_duration, train.seed, train.optimizer.eps) == (9, 3, 0.5)


def test_a_corpus_from_elsewhere_replaces_all_but_seed_and_sequences(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = NO_MODEL.replace("corpus: {", "corpus: {seed: 5, sequences: 999, ")
    assert "folder:" in text
    path.write_text(text + "model: tiny-8")
    named = load_experiment(path, ["corpus.name=dolma-v1_7", "corpus.root=/data"]).corpus
    assert named == CorpusConfig(name="dolma-v1_7", root="/data", seed=5, sequences=999)
    (tmp_path / "web.yaml").write_text(
        "extends: x.yaml\ncorpus: {name: dolma-v1_7, root: 'https://a', manifest: m.json}"
    )
    assert load_experiment(tmp_path / "web.yaml", ["corpus.root=/data"]).corpus.manifest == "m.json"
    staged = load_experiment(tmp_path / "web.yaml", ["corpus.folder=/stage"]).corpus
    assert staged == CorpusConfig(folder="/stage", seed=5, sequences=999)


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


def test_an_entry_of_a_list_that_an_override_gives(base: Path) -> None:
    """Not of the file's list, which has one entry; and what is set of an entry is not lost to a later list."""
    lists = [
        "tasks=[{name: b, kind: comparison}]",
        "injections=[{task: b, per_sequence: 1/8}, {task: b, per_sequence: 1/4}]",
    ]
    experiment = load_experiment(
        base, [*lists, "injections.1.place=end", "injections={0: {start: 3}}", "tasks.0.seed=4"]
    )
    assert [(entry.task, entry.place, entry.start) for entry in experiment.injections] == [
        ("b", "start", 3),
        ("b", "end", 0),
    ]
    assert [(task.name, task.seed) for task in experiment.tasks] == [("b", 4)]
    beyond = "injections: 2 is not one of its entries: it is a list, its entries are 0 to 1"
    assert refusal(base, *lists, "injections.2.place=end") == beyond
    dropped = "injections: give the whole list before injections.0, which it would drop"
    assert refusal(base, "injections.0.place=end", *lists) == dropped
    assert refusal(base, "train.seed=3", "train=[4]") == "train: must hold keys and values (such as seed), not a list"


@pytest.mark.parametrize(
    "nothing", ["train={}", "train={optimizer: {}}", "injections={}", "injections={0: {}}", "model={}"]
)
def test_keys_and_values_without_any_set_nothing(base: Path, nothing: str) -> None:
    base.write_text(NO_MODEL + "model: tiny-8")
    some = [
        "train.max_duration=7",
        "train.optimizer.eps=0.5",
        "injections=[{task: tadd, per_sequence: 1/8}]",
        "model=tiny-16",
    ]
    assert load_experiment(base, [*some, nothing]) == load_experiment(base, some)
    assert load_experiment(base, ["injections={}", *some]) == load_experiment(base, some)
    assert load_experiment(base, ["train.wandb={}"]).train.wandb is not None, "not there by default"


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
    for entry in planned(experiment, Vocabulary.load(DOLMA)):
        assert entry.schedule.max_count <= experiment.batch_size
