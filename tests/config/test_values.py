"""How a value in an experiment's files and overrides is read: numbers, text, durations, and as OmegaConf reads it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from written import changed

from olmo_inject.config import experiment_yaml, load_described, load_experiment
from olmo_inject.config.loading import shipped_configs
from olmo_inject.errors import UserError
from olmo_inject.utils import described_yaml
from olmo_inject.utils.yaml_text import in_flow, parse, plain_value, typed


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


@pytest.mark.parametrize(
    "text", ["x, y", "c d[1].npy", "a{b", "a}", "shard-?.npy", ":x", "a:b", "a\n\n    b", "---", "..."]
)
def test_text_of_a_block_is_the_same_on_one_line(text: str) -> None:
    """Within brackets other text ends plain text than in a block; numbers stay numbers."""
    given = parse(f"- {text}\n- {{}}\n- a: {text}\n- 0010\n- 1e3\n- yes")
    assert given[0] == given[2]["a"] == text.replace("\n\n    ", "\n")
    assert parse(in_flow(given)) == given
    assert parse(in_flow(given[0])) == given[0]
    assert typed(parse(in_flow(given)), list[Any])[3:] == [10, 1000.0, "yes"]


@pytest.mark.parametrize(
    "override",
    ["plan_seed=7", "plan_seed='7'", "plan_seed=007", "plan_seed=-0", "plan_seed=1.0", "plan_seed=x", "plan_seed=null",
     "plan_seed=true", "train.optimizer.learning_rate=3", "train.optimizer.learning_rate=1e-3", "tasks.0.options=3",
     "train.optimizer.learning_rate=.5", "train.optimizer.learning_rate=nan", "train.optimizer.betas=[0.9, 1]",
     "train.optimizer.betas=[0.9]", "model.rope=yes", "model.rope=True", "model.rope=1", "model.layer_norm_type=rms",
     "model.layer_norm_type=RMS", "model.mlp_hidden_size=null", "name=true", "name=${train.seed}", "name=???", "nam=x",
     "corpus.paths=[a, 1]", "corpus.paths=[]", "train.wandb={}", "train.wandb=x", "tasks.0.options={a: {b: [1, x]}}",
     "injections.0.instances_per_batch=0.5", "injections.0.instances_per_batch=1/2", "train.fsdp={}"],
)  # fmt: skip
def test_values_are_read_as_omegaconf_reads_them(base: Path, override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> str:
        try:
            return repr(load_described(base, ["folder=out", override]))
        except UserError as error:
            return str(error)

    ours = read()
    monkeypatch.setattr(described_yaml, "_directly", _needs_omegaconf)
    assert ours == read()


def test_shipped_experiments_need_no_omegaconf(monkeypatch: pytest.MonkeyPatch) -> None:
    names = shipped_configs("experiments")
    monkeypatch.setattr(described_yaml.OmegaConf, "unsafe_merge", _needs_omegaconf)
    quickly = [repr(load_described(name, ["folder=out"])) for name in names]
    monkeypatch.undo()
    monkeypatch.setattr(described_yaml, "_directly", _needs_omegaconf)
    assert quickly == [repr(load_described(name, ["folder=out"])) for name in names]


def _needs_omegaconf(*_: object) -> None:
    raise described_yaml._NeedsOmegaConf


@pytest.mark.parametrize(
    ("text", "value"),
    [("1_000", 1000), ("1_0.5", 10.5), ("1__0", "1__0"), ("1_", "1_"), ("1_.5", "1_.5"), ("1__0.5", "1__0.5")],
)
def test_underscores_stand_between_digits(text: str, value: object) -> None:
    assert plain_value(text) == value


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
