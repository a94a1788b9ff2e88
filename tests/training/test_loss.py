"""The loss of a GPU, computed in parts, is ai2-olmo's; and what a step asks of the device."""

from __future__ import annotations

import pytest
import torch
from olmo.train import cross_entropy_loss

from olmo_inject.training import loss
from olmo_inject.training.sums import StepSums

ROWS, VOCABULARY = 23, 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_loss", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 7, 64])
def test_the_loss_in_parts_is_ai2_olmos(
    dtype: torch.dtype, z_loss: bool, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", rows_at_once * VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, VOCABULARY, generator=generator)).to(dtype).requires_grad_(True)
    labels = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    labels[::5] = -100
    found = []
    for of in (cross_entropy_loss, loss.loss_in_parts):
        given = logits if of is loss.loss_in_parts else logits.float()  # as autocast does
        parts = of(given, labels, ignore_index=-100, reduction="sum", compute_z_loss=z_loss)
        assert (parts[1] is None) != z_loss
        total = parts[0] / 92 if parts[1] is None else parts[0] / 92 + 3 * parts[1]
        [gradient] = torch.autograd.grad(total, logits)
        assert gradient.dtype == dtype
        found.append((total.detach(), gradient.float()))
    (theirs, of_theirs), (ours, of_ours) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    step = 2**-8 if dtype == torch.bfloat16 else 1e-5  # the last bit of bf16
    torch.testing.assert_close(of_ours, of_theirs, rtol=step, atol=1e-8)
    assert not of_ours[::5].any()


def test_other_reductions_are_ai2_olmos_own() -> None:
    logits, labels = torch.randn(ROWS, VOCABULARY), torch.arange(ROWS)
    for reduction in ("mean", "none"):
        ours = loss.loss_in_parts(logits, labels, reduction=reduction)[0]
        assert torch.equal(ours, cross_entropy_loss(logits, labels, reduction=reduction)[0])


def test_sums_are_copied_from_the_device_once() -> None:
    sums = StepSums(torch.device("cpu"))
    sums.declare(reals=("loss",), integers=("rows",))
    sums.declare(reals=("more", "loss"), integers=("tokens",))
    for _ in range(2):
        sums.add("loss", torch.tensor(0.1, dtype=torch.float64))
        sums.add("loss", torch.tensor(0.2))
        sums.add("tokens", torch.tensor(2**63 - 1))
        sums.add("rows", 3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            found = sums.reduce()
        assert found == {"loss": 0.1 + float(torch.tensor(0.2)), "more": 0, "rows": 3, "tokens": 2**63 - 1}
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::item") == 0
