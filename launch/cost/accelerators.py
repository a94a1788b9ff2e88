"""The accelerators that costs are counted in: a table in YAML, every number of which can be replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from omegaconf import MISSING

from olmo_inject.config import configs_folder
from olmo_inject.described_yaml import described
from olmo_inject.errors import UserError
from olmo_inject.yaml_text import read_yaml

CORE = "cpu-core"  # what is counted where there is no GPU: one for each process
DEVICES = ("cuda", "cpu")
NUMBERS = ("peak_flops", "memory", "price", "utilization")


@dataclass(frozen=True)
class Accelerator:
    """One GPU, or one core.

    Attributes:
        name: its key in the table.
        peak_flops: FLOP/s, dense, in the precision it trains in.
        memory: bytes.
        price: US dollars an hour.
        utilization: the share of `peak_flops` that a training step reaches, 0 to 1.
        device: torch's kind of it, cuda (also AMD's) or cpu.
    """

    name: str = ""
    peak_flops: float = MISSING
    memory: float = MISSING
    price: float = MISSING
    utilization: float = MISSING
    device: str = "cuda"

    def with_changes(self, price: float | None = None, utilization: float | None = None) -> Accelerator:
        """The same with another price or utilization.

        Raises:
            UserError: a price below 0, a utilization that is not in (0, 1].
        """
        given = {"price": price, "utilization": utilization}
        return _checked(replace(self, **{name: value for name, value in given.items() if value is not None}), "--")


def find_accelerator(name: str, file: Path | None = None) -> Accelerator:
    """The accelerator of this name.

    Args:
        name: a key of the table.
        file: the table, if not `configs/accelerators.yaml`.

    Raises:
        UserError: no such table or accelerator, or an entry that cannot be.
    """
    table = read_accelerators(file or configs_folder() / "accelerators.yaml")
    if name not in table:
        raise UserError(f"accelerator {name!r} is not one of {', '.join(table)}")
    return table[name]


@cache
def read_accelerators(path: Path) -> dict[str, Accelerator]:
    """A table of accelerators.

    Raises:
        UserError: it cannot be read, an entry lacks a number, has an unknown one or an impossible one.
    """
    return {
        name: _checked(described(Accelerator(name), (f"{path}: {name}", entry)), f"{path}: {name}.")
        for name, entry in read_yaml(path).items()
    }


def _checked(accelerator: Accelerator, where: str) -> Accelerator:
    for name in NUMBERS:
        value = getattr(accelerator, name)
        if not value >= 0 or (value == 0 and name != "price") or value == float("inf"):
            raise UserError(f"{where}{name}: {value} must be above 0")
    if accelerator.utilization > 1:
        raise UserError(f"{where}utilization: {accelerator.utilization} is not a share: above 0, at most 1")
    if accelerator.device not in DEVICES:
        raise UserError(f"{where}device: {accelerator.device!r} is not one of {', '.join(DEVICES)}")
    return accelerator
