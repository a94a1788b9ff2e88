"""Sums for a step's measurements, reduced over all ranks at once."""

from __future__ import annotations

import torch
import torch.distributed as dist

from olmo_inject.training.agreement import is_group


class StepSums:
    """Named running sums over the micro-batches of a step: reals in float64, integers modulo 2^64.

    Every rank declares the same names, so that one reduction of each kind serves all callbacks. The sums of a kind are
    one tensor, so that a step copies all of them to the host at once and clears them at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: dict[torch.dtype, list[str]] = {torch.float64: [], torch.int64: []}
        self._sums = {dtype: torch.zeros(0, dtype=dtype, device=device) for dtype in self._names}
        self._places: dict[str, torch.Tensor] = {}  # views of a sum

    def declare(self, *, reals: tuple[str, ...] = (), integers: tuple[str, ...] = ()) -> None:
        """Add names. Called before the first step, in the same order on every rank."""
        for dtype, new in ((torch.float64, reals), (torch.int64, integers)):
            names = self._names[dtype] = list(dict.fromkeys([*self._names[dtype], *new]))
            self._sums[dtype] = self._sums[dtype].new_zeros(len(names))
            self._places |= {name: self._sums[dtype][place] for place, name in enumerate(names)}

    def add(self, name: str, value: torch.Tensor | int) -> None:
        """Add a scalar, without waiting for the device."""
        self._places[name] += value

    def reduce(self) -> dict[str, float | int]:
        """The sums over all ranks, as numbers. Resets them for the next step (collective, waits for the device)."""
        if is_group():
            for values in self._sums.values():
                if len(values):
                    dist.all_reduce(values)
        reals, integers = self._sums.values()
        together = torch.cat([reals.view(torch.int64), integers]).cpu()
        numbers = (*together[: len(reals)].view(torch.float64).tolist(), *together[len(reals) :].tolist())
        for values in self._sums.values():
            values.zero_()
        return dict(zip((name for names in self._names.values() for name in names), numbers, strict=True))
