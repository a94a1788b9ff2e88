"""What every test runs under: checked array shapes, and two settings of hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Before anything imports them: functions of the modules that say shapes check what they are given and return. Not of
# the others, where each call would cost a tenth of a millisecond and the type checker says as much. And not of
# `olmo_inject.theory`, whose annotations say float and int where numpy's scalars come and go, nor of two modules whose
# functions of single numbers are called a hundred thousand times.
REPOSITORY = Path(__file__).parents[1]
install_import_hook(
    [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for package in ("analysis", "olmo_inject")
        for path in (REPOSITORY / package).rglob("*.py")
        if "theory" not in path.parts
        and path.stem not in ("schedules", "randomness")
        and "jaxtyping" in path.read_text(encoding="utf-8")
    ],
    "beartype.beartype",
)

# The same few examples every time, so a failure is a change of the code. The search for new ones is
# `pytest --hypothesis-profile thorough`. Time is judged in neither: these machines are shared.
settings.register_profile(
    "default",
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    max_examples=1000,
    derandomize=False,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, then those of slow tests; at the end every process would wait for them."""
    items.sort(key=lambda item: [item.path.name != "test_torchrun.py", item.get_closest_marker("slow") is None])


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; gives its status and what it said."""
    from olmo_inject.cli import main  # after the hook

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run
