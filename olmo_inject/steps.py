"""Sets of steps (listed, log-spaced, in windows), and the grammar of `--steps`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from olmo_inject.errors import UserError

MOST_STEPS = 2**31 - 1
_RANGE = re.compile(r"(\d*):(\d*)(?::(\d+))?")


def parse_step_range(text: str) -> tuple[int, int | None, int] | None:
    """Parse `start:stop:every`, as Python's slices; None if `text` has another form.

    Returns:
        Start, stop (exclusive; None if left out) and stride.
    """
    match = _RANGE.fullmatch(text)
    if match is None or match[3] == "0":
        return None
    return int(match[1] or 0), int(match[2]) if match[2] else None, int(match[3] or 1)


def consecutive_steps(text: str) -> range:
    """Parse `--steps start:stop`.

    Raises:
        UserError: another form, no end, a stride, or no step.
    """
    start, stop, every = parse_step_range(text) or (0, None, 1)
    if stop is None or every != 1:
        raise UserError(f"--steps: {text!r} is not start:stop, such as 0:50000")
    if not start < stop <= MOST_STEPS:
        raise UserError(f"--steps: {text}: stop must be above start and at most {MOST_STEPS:,}")
    return range(start, stop)


@dataclass
class StepWindow:
    """Every `every`-th step from `start` to `stop` (exclusive)."""

    start: int = 0
    stop: int = 0
    every: int = 1


@dataclass
class StepSelection:
    """A set of steps: the union of its fields."""

    steps: list[int] = field(default_factory=list)
    log_spaced: int = 0
    """Steps per decade: 1 gives 1, 10, 100, ...; 3 gives 1, 2, 5, 10, 22, 46, 100, ..."""
    windows: list[StepWindow] = field(default_factory=list)

    def __contains__(self, step: int) -> bool:
        """Whether `step` is selected."""
        return (
            step in self.steps
            or any(w.start <= step < w.stop and (step - w.start) % w.every == 0 for w in self.windows)
            or self._is_log_spaced(step)
        )

    def up_to(self, last: int) -> set[int]:
        """The selected steps from 0 to `last` (inclusive)."""
        selected = {step for step in self.steps if step <= last}
        for window in self.windows:
            selected |= set(range(window.start, min(window.stop, last + 1), window.every))
        if self.log_spaced:
            powers = (round(10 ** (k / self.log_spaced)) for k in range(self.log_spaced * len(str(last)) + 1))
            selected |= {step for step in powers if step <= last}
        return selected

    def check(self, where: str) -> None:
        """Validate the selection.

        Raises:
            UserError: a negative step, or a window that ends before it starts.
        """
        if self.log_spaced < 0:
            raise UserError(f"{where}.log_spaced: {self.log_spaced} must be at least 0")
        for step in self.steps:
            if step < 0:
                raise UserError(f"{where}.steps: {step} must be at least 0")
        for window in self.windows:
            if window.start < 0 or window.stop <= window.start or window.every < 1:
                raise UserError(
                    f"{where}.windows: start {window.start}, stop {window.stop}, every {window.every}: "
                    "start must come before stop and every be at least 1"
                )

    def _is_log_spaced(self, step: int) -> bool:
        if not self.log_spaced or step < 1:
            return False
        # The k-th step is 10^(k / n) rounded, so a selected step has a k near log10(step) * n.
        near = len(str(step)) * self.log_spaced
        return any(round(10 ** (k / self.log_spaced)) == step for k in range(near - self.log_spaced, near + 1))
