"""Shapes and types are checked in every test of the theory, where arrays of one mixture meet."""

from collections.abc import Iterator

import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Not the mixture itself: beartype draws at random within tuples, which Hypothesis forbids to strategies.
CHECKED = (
    "forms.closed_forms",
    "forms.gaps",
    "forms.kept",
    "mixtures.features",
    "prediction.predict",
    "training.gradients",
    "training.metrics",
    "training.streams",
)
install_import_hook([f"olmo_inject.theory.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the annotations' own checks, as users run it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
