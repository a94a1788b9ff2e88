"""Sums for a step's measurements, reduced over all ranks at once."""

from __future__ import annotations

import torch
import torch.distributed as dist


class StepSums:
    """Named running sums over the micro-batches of a step: reals in float64, integers modulo 2^64.

    Every rank declares the same names, so that one reduction of each kind serves all callbacks.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reals: dict[str, torch.Tensor] = {}
        self._integers: dict[str, torch.Tensor] = {}

    def declare(self, *, reals: tuple[str, ...] = (), integers: tuple[str, ...] = ()) -> None:
        """Add names. Called before the first step, in the same order on every rank."""
        for name in reals:
            self._reals[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        for name in integers:
            self._integers[name] = torch.zeros((), dtype=torch.int64, device=self.device)

    def add(self, name: str, value: torch.Tensor | int) -> None:
        """Add a scalar, without waiting for the device."""
        (self._reals if name in self._reals else self._integers)[name] += value

    def reduce(self) -> dict[str, float | int]:
        """The sums over all ranks, as numbers. Resets them for the next step (collective, waits for the device)."""
        out: dict[str, float | int] = {}
        for kind in (self._reals, self._integers):
            if kind:
                stacked = torch.stack(list(kind.values()))
                if dist.is_available() and dist.is_initialized():
                    dist.all_reduce(stacked)
                out.update(zip(kind, stacked.tolist(), strict=True))
                for value in kind.values():
                    value.zero_()
        return out
