"""A kind of task in a user's own file, from its path to its injection; and what such files can get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import vocabulary

from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, PlannedTask
from olmo_inject.injection.schedules import Uniform
from olmo_inject.tasks import Task, TaskConfig, TaskKind
from olmo_inject.utils.fraction_text import parse_fraction

SUBTRACTION = '''
"""(value(TOK1) - value(TOK2)) mod n."""
{future}
from dataclasses import dataclass

import numpy as np

from olmo_inject.tasks import all_pairs


@dataclass(frozen=True)
class Subtraction:
    n_values: int = 100
    offset: int = 0

    @property
    def n_tokens(self) -> int:
        return self.n_values

    def instances(self, tokens: np.ndarray) -> np.ndarray:
        a, b = all_pairs(self.n_values)
        return np.stack([tokens[a], tokens[b], tokens[(a - b + self.offset) % self.n_values]], axis=1)
'''

BODY = """
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class Broken:
    n_tokens: int = 3

    def instances(self, tokens):
        return {returned}
"""


@pytest.fixture(params=["", "from __future__ import annotations"], ids=["plain", "postponed"])
def own_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Both ways to write annotations: postponed ones are strings that dataclasses looks up by module."""
    path = tmp_path / "my_tasks.py"
    path.write_text(SUBTRACTION.format(future=request.param))
    return path


def build(kind: str, **options: object) -> Task:
    return Task.build(TaskConfig("own", kind, options=dict(options)), vocabulary())


def test_third_task_in_a_file_of_ones_own(own_file: Path, tmp_path: Path) -> None:
    task = build(f"{own_file}:Subtraction", n_values=10, offset=3)
    value = {token: i for i, token in enumerate(task.tokens.tolist())}
    for first, second, label in task.instances.tolist():
        assert value[label] == (value[first] - value[second] + 3) % 10
    assert len(task.instances) == 100
    assert len(task.train_ids) == 50

    plan = Plan([PlannedTask(task, Uniform(parse_fraction("1/2", "here")))], batch_size=4, seed=0)
    assert plan.tokens(plan.at(1)).tolist() == [task.instances[plan.at(1).instance[0]].tolist()]

    task.save(tmp_path / "saved")
    own_file.unlink()
    loaded = Task.load(tmp_path / "saved" / "own.json")
    assert loaded.fingerprint == task.fingerprint, "a saved task is read without the code of its kind"


def test_options_of_ones_own_kind_are_checked(own_file: Path) -> None:
    with pytest.raises(UserError, match="own: kind '.*' has no option 'modulus'; it has n_values, offset"):
        build(f"{own_file}:Subtraction", modulus=5)
    with pytest.raises(UserError, match=r"own: option offset must be a whole number, got 1\.5"):
        build(f"{own_file}:Subtraction", offset=1.5)


def test_kind_without_options_runs_on_its_defaults(own_file: Path) -> None:
    assert len(build(f"{own_file}:Subtraction").instances) == 10_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Broken: pass", "must be a dataclass with n_tokens and instances"),
        ("from dataclasses import dataclass\n@dataclass\nclass Broken: pass", "must be a dataclass with n_tokens and"),
        ("from dataclasses import dataclass\n@dataclass\nclass Broken:\n    def instances(self, tokens): ...",
         "must be a dataclass with n_tokens and instances"),
        ("Broken = 3", "has no class Broken"),
        ("Other = int", "has no class Broken"),
        ("import nowhere_to_be_found", "failed to load: ModuleNotFoundError"),
        ("def broken(:", "failed to load: SyntaxError"),
        (BODY.format(returned="tokens"), r"line 9: instances\(\) must return sequences of token ids, got an array of"),
        (BODY.format(returned="[tokens, []]"), r"must return one or more token ids for instance 1, got shape \(0,\)"),
        (BODY.format(returned="[tokens, 5.5]"), r"must return one or more token ids for instance 1, got shape \(\)"),
        (BODY.format(returned="[tokens, tokens - 0.5]"), r"must return an array of tokens, got float64 for instance 1"),
        (BODY.format(returned="tokens.astype(int) - 200"), r"got an array of shape \(3,\)"),
        (BODY.format(returned="[-tokens.astype(int)]"), r"must return token ids from 0, of 32 bits; instance 0 holds"),
        (BODY.format(returned="5"), r"must return sequences of token ids, got int"),
        (BODY.format(returned="np.full((4, 3), 1)"), r"instances\(\) must use only the tokens it was given"),
        (BODY.format(returned="np.stack([tokens, tokens, tokens], 1)[[0, 1, 1]]"), "repeat the tokens before a label"),
        (BODY.format(returned="np.empty((0, 3))"), "0 instances leave the train or the test half empty"),
    ],
)  # fmt: skip
def test_files_that_hold_no_kind(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        build(f"{tmp_path / 'own.py'}:Broken")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("np.array([[1, 2, 3], [1, 2]])", "instances() failed: ValueError: setting an array element with a sequence."),
        ("1 / 0", "instances() failed: ZeroDivisionError: division by zero"),
        ("__import__('sys').exit(5)", "instances() failed: SystemExit: 5"),
        ("{}['a\\nb']", "instances() failed: KeyError: 'a\\nb'"),
    ],
)
def test_what_a_kind_raises_is_one_line_with_its_place(returned: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(BODY.format(returned=returned))
    with pytest.raises(UserError) as refused:
        build(f"{file}:Broken")
    assert str(refused.value).startswith(f"tasks: own: {file}, line 10: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit(5)", "own.py, line 2: failed to load: SystemExit: 5"),
        ("x = 1\ndef broken(:", "own.py, line 2: failed to load: SyntaxError: invalid syntax"),
        (BODY.replace("n_tokens: int = 3", "n_tokens: int = 'three'"), "n_tokens must be a whole number above 0, got"),
        (BODY.replace("n_tokens: int = 3", "n_tokens: int = -3"), "n_tokens must be a whole number above 0, got -3"),
        (BODY.replace("n_tokens: int = 3", "n_tokens = property(lambda self: 1 / 0)"), "own.py, line 7: ZeroDivision"),
        ("from __future__ import annotations" + BODY.replace("n_tokens: int", "n_tokens: Nowhere"),
         "own.py: NameError: name 'Nowhere' is not defined"),
        (BODY.replace("return {returned}", "return np.array([['a', 'b', 'c']])"), "an array of tokens, got <U1"),
    ],
)  # fmt: skip
def test_kinds_that_fail_elsewhere(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError) as refused:
        build(f"{tmp_path / 'own.py'}:Broken")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "good", "bad", "words"),
    [
        ("p: float = 0.5", [0.5, 1], ["abc", True, None, [1]], "a number"),
        ("p: int = 1", [3], [3.5, True, "3"], "a whole number"),
        ("p: str = 'x'", ["3"], [3, True, 1.5], "text (in quotes, if it looks like a number)"),
        ("p: bool = True", [False], [1, "true"], "true or false"),
        ("p: list[int] = None", [[1, 2]], [[1, "a"], 3, "12"], "list[int]"),
        ("p: int | None = None", [None, 3], ["x", 0.5], "int | None"),
    ],
)
def test_options_have_the_types_that_are_declared(
    field: str, good: list[object], bad: list[object], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(SUBTRACTION.format(future="").replace("    offset: int = 0", f"    offset: int = 0\n    {field}"))
    for value in good:
        build(f"{file}:Subtraction", n_values=9, p=value)
    for value in bad:
        with pytest.raises(UserError) as refused:
            build(f"{file}:Subtraction", n_values=9, p=value)
        assert str(refused.value) == f"tasks: own: option p must be {words}, got {value!r}"


def test_the_file_of_a_kind_may_be_in_the_home_folder(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own_file.parent))
    monkeypatch.setenv("MINE", own_file.stem)
    assert build("~/$MINE.py:Subtraction", n_values=9).config.kind == "~/$MINE.py:Subtraction"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*absent\.py"):
        build(f"{tmp_path / 'absent.py'}:Task")


def test_built_in_kinds_keep_the_protocol() -> None:
    from olmo_inject.tasks.comparison import Comparison
    from olmo_inject.tasks.modular_addition import ModularAddition

    for kind in (Comparison(5), ModularAddition(5)):
        assert isinstance(kind, TaskKind)
        instances = kind.instances(np.arange(kind.n_tokens, dtype=np.uint32))
        assert instances.shape == (25, 3)
        assert instances.dtype == np.uint32
