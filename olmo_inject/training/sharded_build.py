"""Builds a model without its weights, and draws the first weights of one module at a time: those of a whole build."""

from __future__ import annotations

from collections.abc import Callable

import olmo.model
import torch
from olmo.config import ModelConfig
from olmo.initialization import init_normal
from olmo.model import LayerNormBase, OLMo
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook


def build_without_weights(config: ModelConfig) -> tuple[OLMo, Callable[[nn.Module], None]]:
    """Build a model on the meta device, and a function that gives a module the weights that it has in a whole build.

    ai2-olmo's build runs as it is on `config.init_device`, so torch's own initialization of each layer draws the same
    random numbers there; then the layer leaves the device. What ai2-olmo draws after it is only noted.

    Args:
        config: the model's settings.

    Returns:
        The model, and FSDP's `param_init_fn`: it moves a module's own parameters to `config.init_device` and draws
        them. It changes the random state of that device. Modules may be given in any order. It takes least time in
        ai2-olmo's order, nearly FSDP's: the weights of a module that is passed over are drawn twice.
    """
    device = torch.device(config.init_device or "cpu")
    noted: list[tuple[nn.Linear | nn.Embedding, float, float | None]] = []

    def note(module: nn.Linear | nn.Embedding, std: float, init_cutoff_factor: float | None = None) -> None:
        noted.append((module, std, init_cutoff_factor))

    hook = register_module_module_registration_hook(lambda _parent, _name, module: _move_without_values(module, "meta"))
    olmo.model.init_normal = note  # pyright: ignore[reportPrivateImportUsage]
    try:
        model = OLMo(config)
    finally:
        olmo.model.init_normal = init_normal  # pyright: ignore[reportPrivateImportUsage]
        hook.remove()
    places: dict[nn.Module, int] = {module: place for place, (module, _, _) in enumerate(noted)}
    states = [_random_state(device)]  # before each that is noted, as far as they are known

    def draw(place: int) -> None:
        module, std, cutoff = noted[place]
        _move_without_values(module, device)
        _set_random_state(device, states[place])
        init_normal(module, std, cutoff)
        if place + 1 == len(states):
            states.append(_random_state(device))

    def give_weights(module: nn.Module) -> None:
        if module in places:
            for passed_over in range(len(states) - 1, places[module]):
                draw(passed_over)
                _move_without_values(noted[passed_over][0], "meta")
            draw(places[module])
        elif any(True for _ in module.parameters(recurse=False)):
            assert isinstance(module, LayerNormBase), f"{type(module).__name__} has weights that ai2-olmo did not draw"
            _move_without_values(module, device)
            module.reset_parameters()

    return model, give_weights


def _move_without_values(module: nn.Module, device: torch.device | str) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(torch.empty_like(parameter, device=device)))


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
