import doctest
import subprocess
import sys

import olmo_inject.theory as theory


def test_the_worked_examples_give_what_they_show() -> None:
    found = doctest.testmod(theory, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted >= 8
    assert found.failed == 0


def test_every_public_name_is_documented_and_there() -> None:
    assert sorted(theory._HOME) == sorted(theory.__all__)
    for name in theory.__all__:
        assert getattr(theory, name).__doc__, name


def test_closed_forms_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from olmo_inject.theory import TaskMixture, predict, conflict; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
