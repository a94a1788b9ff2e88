"""Random problems for property tests: unequal numbers of features, free frequencies and spectra."""

import numpy as np
from hypothesis import strategies as st

from olmo_inject.theory.mixtures.task_mixture import TaskMixture


@st.composite
def mixtures(draw: st.DrawFn, tied: bool = False) -> TaskMixture:
    """Any mixture of up to six tasks; with `tied`, from a few round numbers so that utilities collide."""
    tasks = draw(st.integers(1, 6))
    number = st.sampled_from([1.0, 2.0, 4.0]) if tied else st.floats(0.01, 10)
    weights = np.array(draw(st.lists(number, min_size=tasks, max_size=tasks)))
    spectra = tuple(
        np.array(sorted(draw(st.lists(number, min_size=1, max_size=5)), reverse=True)) for _ in range(tasks)
    )
    return TaskMixture(weights / weights.sum(), spectra, null_directions=draw(st.integers(0, 3)))


def permuted(mixture: TaskMixture, order: list[int]) -> TaskMixture:
    """The same tasks under their names in another order."""
    return TaskMixture(
        mixture.frequencies[order],
        tuple(mixture.spectra[k] for k in order),
        tuple(mixture.names[k] for k in order),
        mixture.null_directions,
    )
