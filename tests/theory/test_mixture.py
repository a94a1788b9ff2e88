import numpy as np
import pytest

from olmo_inject.errors import UserError
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law

ONE = np.array([1.0, 0.5])


def mixture(frequencies=(0.6, 0.4), spectra=(ONE, ONE), **more) -> TaskMixture:
    return TaskMixture(np.array(frequencies), tuple(np.array(spectrum) for spectrum in spectra), **more)


@pytest.mark.parametrize("basis", ["axis", "random"])
def test_features_are_orthonormal_and_the_gram_has_the_utilities(basis) -> None:
    problem = mixture((0.3, 0.7), ([2.0, 1.0, 1.0], [5.0]), null_directions=3, basis=basis)
    assert problem.dimension == 7
    assert np.allclose(problem.directions.T @ problem.directions, np.eye(4), atol=1e-14)
    spectrum = np.linalg.eigvalsh(problem.gram())[::-1]
    assert np.allclose(spectrum, [3.5, 0.6, 0.3, 0.3, 0, 0, 0], atol=1e-14)
    assert np.allclose(problem.gram([0]) + problem.gram([1]), problem.gram(), atol=1e-15)
    assert np.trace(problem.gram([0])) == pytest.approx(0.3 * 4)


def test_the_random_basis_is_a_function_of_its_seed() -> None:
    first, again, other = (mixture(basis="random", basis_seed=seed) for seed in (1, 1, 2))
    assert (first.directions == again.directions).all()
    assert not np.allclose(first.directions, other.directions)


def test_unequal_tasks_keep_their_places() -> None:
    problem = mixture((0.2, 0.5, 0.3), ([3.0], [1.0, 1.0, 0.1], [4.0, 2.0]), names=("a", "b", "c"))
    assert problem.task_of.tolist() == [0, 1, 1, 1, 2, 2]
    assert problem.rank_of.tolist() == [1, 1, 2, 3, 1, 2]
    assert problem.traces == pytest.approx([3.0, 2.1, 6.0])
    assert problem.index("c") == 2
    with pytest.raises(UserError, match="no task is called 'd'"):
        problem.index("d")


def test_a_task_alone_keeps_the_input_space() -> None:
    problem = mixture((0.2, 0.8), ([3.0, 1.0], [1.0]), null_directions=4, basis="random")
    alone = problem.alone(0)
    assert (alone.tasks, alone.features, alone.dimension) == (1, 2, problem.dimension)
    assert alone.utilities == pytest.approx([3.0, 1.0])


def test_power_laws_have_unit_sum() -> None:
    assert power_law(4, 1.0) == pytest.approx(np.array([12, 6, 4, 3]) / 25)
    assert power_law(3, 0.0) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixture((0.6, 0.5)), "sum to 1, got 1.1"),
        (lambda: mixture((1.2, -0.2)), "task 'task-2' must be a finite number above 0, got -0.2"),
        (lambda: mixture((1.0, 0.0)), "must be a finite number above 0, got 0"),
        (lambda: mixture((np.nan, 0.4)), "frequencies must be a finite number, got nan"),
        (lambda: mixture(spectra=(ONE, [1.0, 2.0])), "'task-2' must not increase, got 1 then 2 at feature 2"),
        (lambda: mixture(spectra=(ONE, [1.0, np.nan])), "'task-2' must be a finite number above 0, got nan"),
        (
            lambda: mixture(spectra=([1.0, -1.0], ONE)),
            "'task-1' must be a finite number above 0, got -1",
        ),
        (lambda: mixture(spectra=(ONE, [np.inf, 1.0])), "got inf"),
        (lambda: mixture(spectra=(ONE, [])), "'task-2' must be a list of one or more"),
        (lambda: mixture(spectra=(ONE,)), "got 2 frequencies, 1 spectra"),
        (lambda: mixture(names=("a", "a")), "names must differ"),
        (
            lambda: mixture(null_directions=-1),
            "null_directions must be a whole number of 0 or more, got -1",
        ),
        (lambda: power_law(0, 1.0), "length of a power law must be a whole number from 1 to 10000000, got 0"),
        (lambda: power_law(10**12, 1.0), "a power law must be a whole number from 1 to 10000000, got 1e\\+12"),
        (lambda: power_law(10**30, 1.0), "length of a power law must have 64 bits at most, got 10+$"),
        (lambda: power_law(3, -1.0), "power law must be a finite number at least 0, got -1"),
        (lambda: power_law(3, np.nan), "at least 0, got nan"),
    ],
)
def test_impossible_problems_get_one_clear_line(make, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
