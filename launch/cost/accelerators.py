"""The accelerators in which costs are counted, from a YAML table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from omegaconf import MISSING

from olmo_inject.config import configs_folder
from olmo_inject.errors import UserError
from olmo_inject.utils.described_yaml import described
from olmo_inject.utils.yaml_text import read_yaml

CORE = "cpu-core"  # counted if there is no GPU, one per process
DEVICES = ("cuda", "cpu")
NUMBERS = ("peak_flops", "memory", "price", "utilization")


@dataclass(frozen=True)
class Accelerator:
    """One GPU, or one CPU core.

    Attributes:
        name: its key in the table.
        peak_flops: dense FLOP/s in the precision of training.
        memory: bytes.
        price: US dollars per hour.
        utilization: fraction of `peak_flops` that a training step reaches, above 0 and at most 1.
        device: torch's device type: cuda (AMD's GPUs too) or cpu.
    """

    name: str = ""
    peak_flops: float = MISSING
    memory: float = MISSING
    price: float = MISSING
    utilization: float = MISSING
    device: str = "cuda"

    def with_changes(self, price: float | None = None, utilization: float | None = None) -> Accelerator:
        """The same accelerator with another price or utilization.

        Args:
            price: US dollars per hour; None keeps it.
            utilization: fraction of `peak_flops`; None keeps it.

        Raises:
            UserError: the price is below 0, or the utilization not in (0, 1].
        """
        given = {"price": price, "utilization": utilization}
        return _checked(replace(self, **{name: value for name, value in given.items() if value is not None}), "--")


def find_accelerator(name: str, file: Path | None = None) -> Accelerator:
    """The accelerator of this name.

    Args:
        name: a key of the table.
        file: the table; None: `configs/accelerators.yaml`.

    Raises:
        UserError: no such table or accelerator, or an invalid entry.
    """
    table = read_accelerators(file or configs_folder() / "accelerators.yaml")
    if name not in table:
        raise UserError(f"accelerator {name!r} is not one of {', '.join(table)}")
    return table[name]


@cache
def read_accelerators(path: Path) -> dict[str, Accelerator]:
    """Read a table of accelerators.

    Raises:
        UserError: it cannot be read, or an entry lacks a number, has an unknown key or an invalid value.
    """
    return {
        name: _checked(described(Accelerator(name), (f"{path}: {name}", entry)), f"{path}: {name}.")
        for name, entry in read_yaml(path).items()
    }


def _checked(accelerator: Accelerator, where: str) -> Accelerator:
    for name in NUMBERS:
        value = getattr(accelerator, name)
        if not value >= 0 or (value == 0 and name != "price") or value == float("inf"):
            raise UserError(f"{where}{name}: {value} must be {'at least' if name == 'price' else 'above'} 0")
    if accelerator.utilization > 1:
        raise UserError(f"{where}utilization: {accelerator.utilization} must be above 0 and at most 1")
    if accelerator.device not in DEVICES:
        raise UserError(f"{where}device: {accelerator.device!r} is not one of {', '.join(DEVICES)}")
    return accelerator
