"""The shipped model files have the sizes they say, by ai2-olmo's own count, and the recipe they state."""

from pathlib import Path

import pytest
from olmo.model import OLMo

from olmo_inject.config import Experiment, configs_folder, load_experiment
from olmo_inject.config.olmo_settings import ActivationType, BlockType, LayerNormType, OptimizerType
from olmo_inject.training.olmo_config import model_config

# Parameters without and with the input embedding, to three digits.
SIZES = {
    "4M": (3.74e6, 6.96e6),
    "20M": (19.1e6, 28.8e6),
    "300M": (320e6, 371e6),
    "1B": (1.18e9, 1.28e9),
    "4B": (3.97e9, 4.16e9),
}
TINY = {
    "tiny-8": (18_432, 34_816),
    "tiny-16": (40_960, 73_728),
    "tiny-32": (98_304, 163_840),
    "tiny-64": (262_144, 393_216),
    "tiny-128": (786_432, 1_048_576),
}
SHARED = {"olmo", "cpu"}


def load(name: str, tmp_path: Path) -> Experiment:
    file = tmp_path / "experiment.yaml"
    file.write_text(f"model: {name}\ncorpus: {{folder: never-opened}}\n")
    return load_experiment(file)


def on_meta(experiment: Experiment) -> OLMo:
    experiment.model.init_device = "meta"
    return OLMo(model_config(experiment.model), init_params=False)


def three_digits(value: float) -> float:
    return float(f"{value:.2e}")


def test_no_model_file_is_unchecked() -> None:
    assert {file.stem for file in (configs_folder() / "models").glob("*.yaml")} == SIZES.keys() | TINY.keys() | SHARED


@pytest.mark.parametrize("name", SIZES)
def test_paper_sizes(name: str, tmp_path: Path) -> None:
    model = on_meta(load(name, tmp_path))
    counted = model.num_params(include_embedding=False), model.num_params()
    assert tuple(map(three_digits, counted)) == SIZES[name]
    assert model.config.n_layers == (8 if name == "4M" else 16)


@pytest.mark.parametrize("name", TINY)
def test_cpu_sizes(name: str, tmp_path: Path) -> None:
    experiment = load(name, tmp_path)
    model = on_meta(experiment)
    assert (model.num_params(include_embedding=False), model.num_params()) == TINY[name]
    assert name == f"tiny-{model.config.d_model}"
    assert experiment.train.precision == "fp32"
    assert model.config.vocab_size == 2048


@pytest.mark.parametrize("name", [*SIZES, *TINY])
def test_architecture_is_olmos(name: str, tmp_path: Path) -> None:
    model = on_meta(load(name, tmp_path))
    config = model.config
    assert all(parameter.ndim == 2 for parameter in model.parameters()), "a bias, or a norm with a gain"
    assert model.transformer.ff_out.weight is not model.transformer.wte.weight
    assert config.block_type == BlockType.sequential
    assert config.layer_norm_type == LayerNormType.default
    assert config.activation_type == ActivationType.swiglu
    assert config.rope
    assert not config.norm_after
    assert (config.attention_dropout, config.residual_dropout, config.embedding_dropout) == (0, 0, 0)
    assert config.d_model // config.n_heads >= 4
    assert config.embedding_size is not None
    assert config.embedding_size % 128 == 0
    assert max(config.eos_token_id, config.pad_token_id) < config.vocab_size <= config.embedding_size


@pytest.mark.parametrize("name", [*SIZES, *TINY])
def test_optimizer_is_the_stated_recipe(name: str, tmp_path: Path) -> None:
    optimizer = load(name, tmp_path).train.optimizer
    assert optimizer.name == OptimizerType.adamw
    assert tuple(optimizer.betas) == (0.9, 0.95)
    assert (optimizer.eps, optimizer.weight_decay) == (1e-8, 0.1)
    assert optimizer.decay_norm_and_bias
    assert optimizer.decay_embeddings


@pytest.mark.parametrize("name", SIZES)
def test_learning_rate_is_the_ladder_rule(name: str, tmp_path: Path) -> None:
    experiment = load(name, tmp_path)
    parameters = on_meta(experiment).num_params(include_embedding=False)
    rule = min(0.0047 * (parameters / 108e6) ** (-1 / 3), 3e-3)
    assert f"{experiment.train.optimizer.learning_rate:.4g}" == f"{rule:.4g}"
