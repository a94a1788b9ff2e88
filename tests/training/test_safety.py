"""A run stops at a spike of its text's loss, and not at a burst of instances."""

from __future__ import annotations

import math

import pytest

from olmo_inject.config import SafetyConfig
from olmo_inject.errors import UserError
from olmo_inject.training.callbacks.safety import Safety
from olmo_inject.training.trainer import InjectionTrainer

TOKENS = 1024
INJECTED = 100
TRAINER = object.__new__(InjectionTrainer)  # the guard asks it for the last checkpoint alone
TRAINER.last_saved = None


def step(safety: Safety, number: int, text: float, injected: float | None = None) -> None:
    """A step whose batch has `TOKENS` of text, and in a burst `INJECTED` targets, with these losses in nats a token."""
    targets = 0 if injected is None else INJECTED
    of_injected = targets * (injected or 0.0)
    sums = {"targets": TOKENS + targets, "injected/targets": targets, "injected/loss": of_injected}
    safety.before_update(TRAINER, number, {}, {**sums, "loss": TOKENS * text + of_injected})


@pytest.fixture
def safety(monkeypatch: pytest.MonkeyPatch) -> Safety:
    """After as many steps as its window has, beside text that is known by heart."""
    monkeypatch.setattr(Safety, "_worst_rows", lambda *_: [])  # needs a model
    guard = Safety(SafetyConfig(spike_factor=10.0, spike_window=20))
    for number in range(20):
        step(guard, number, 0.1 + 0.001 * math.sin(number))
    return guard


def test_a_burst_beside_text_known_by_heart_is_no_spike(safety: Safety) -> None:
    for number in range(20, 60):
        step(safety, number, 0.1 + 0.001 * math.sin(number), injected=9.0 if number % 10 == 0 else None)
    assert list(safety.recent) == pytest.approx([0.1 + 0.001 * math.sin(number) for number in range(40, 60)])


@pytest.mark.parametrize("injected", [None, 0.1])
def test_a_spike_of_the_text_stops_the_run(safety: Safety, injected: float | None) -> None:
    with pytest.raises(UserError, match=r"step 20: loss of the text 0\.200 spiked above 0\.10"):
        step(safety, 20, 0.2, injected)


def test_a_batch_of_instances_alone_is_only_to_be_finite(safety: Safety) -> None:
    alone = {"targets": INJECTED, "injected/targets": INJECTED, "injected/loss": 900.0}
    safety.before_update(TRAINER, 20, {}, {**alone, "loss": 900.0})
    with pytest.raises(UserError, match="loss is nan"):
        safety.before_update(TRAINER, 21, {}, {**alone, "loss": math.nan})


def test_without_a_factor_nothing_spikes() -> None:
    guard = Safety(SafetyConfig(spike_factor=None, spike_window=2))
    for number, loss in enumerate((0.1, 0.1, 50.0)):
        step(guard, number, loss)
    assert list(guard.recent) == pytest.approx([0.1, 50.0])
