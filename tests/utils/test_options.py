"""Paths and numbers wherever one is taken: `~` and `$NAME` in keys, overrides and options, and every option's range."""

from __future__ import annotations

import inspect
import json
import shutil
import typing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from launch.torchrun import check_launch
from olmo_inject.cli import app, main
from olmo_inject.commands.shared import print_json
from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError
from olmo_inject.inspect.step import parse_rows
from olmo_inject.utils.options import NUMBERS
from olmo_inject.utils.paths import PATH, expanded, with_expanded_paths

EXPERIMENT = """
name: small
folder: $SCRATCH/runs/${name}
model: tiny-8
start_from: ~/first/step5
corpus: {paths: [~/a.npy, "$SCRATCH/*.npy"], tokenizer: ~/tokenizer.json}
references: [{name: natural, path: ~/natural.json}]
train: {data: {label_mask_paths: [~/mask.npy]}}
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A home folder and a scratch folder; the working folder is empty."""
    home, scratch, here = (tmp_path / name for name in ("home", "scratch", "here"))
    for folder in (home, scratch, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SCRATCH", str(scratch))
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(here)
    return home, scratch


def test_what_a_path_stands_for(places: tuple[Path, Path]) -> None:
    home, scratch = places
    assert expanded("~/x", "here") == f"{home}/x"
    assert expanded("~", "here") == str(home)
    assert expanded("a/~/b", "here") == "a/~/b"
    assert expanded("$SCRATCH/${SCRATCH}x/y$", "here") == f"{scratch}/{scratch}x/y$"
    assert expanded("s3://bucket/$key", "here") == "s3://bucket/$key"
    with pytest.raises(UserError, match=r"^folder: \$UNSET/x: the environment variable UNSET is not set$"):
        expanded("$UNSET/x", "folder")


def test_what_no_file_can_be_called() -> None:
    for path in ("x" * 5000, "a/" + "é" * 200, "a\0b"):
        with pytest.raises(UserError, match=r"^here: .* is not a path: a name has at most 255 bytes"):
            expanded(path, "here")
    with pytest.raises(UserError, match="is not a path"):
        load_experiment("x" * 5000)
    assert expanded("a/" * 1000, "here") == "a/" * 1000


def test_every_path_of_an_experiment(places: tuple[Path, Path]) -> None:
    home, scratch = places
    (home / "x.yaml").write_text(EXPERIMENT)
    (scratch / "y.yaml").write_text("extends: ~/x.yaml")
    for path in ("~/x.yaml", "$SCRATCH/y.yaml"):
        experiment = load_experiment(path)
        assert experiment.folder == f"{scratch}/runs/small"
        assert experiment.start_from == f"{home}/first/step5"
        assert experiment.corpus.paths == [f"{home}/a.npy", f"{scratch}/*.npy"]
        assert experiment.corpus.tokenizer == f"{home}/tokenizer.json"
        assert experiment.references[0].path == f"{home}/natural.json"
        assert experiment.train.data.label_mask_paths == [f"{home}/mask.npy"]
    corpus = load_experiment("~/x.yaml", ["corpus.folder=~/c", "folder=$SCRATCH/r"]).corpus
    assert corpus.folder == f"{home}/c"
    named = load_experiment("~/x.yaml", ["corpus.name=~/own.yaml", "corpus.root=~/shards", "corpus.manifest=~/m"])
    assert (named.corpus.name, named.corpus.root) == (f"{home}/own.yaml", f"{home}/shards")
    assert named.corpus.manifest == f"{home}/m"
    with pytest.raises(UserError, match="^folder: .*the environment variable UNSET is not set"):
        load_experiment("~/x.yaml", ["folder=$UNSET/r"])


def test_every_number_of_a_command_has_its_range() -> None:
    for name, command in commands().items():
        for parameter, hint in typing.get_type_hints(inspect.unwrap(command)).items():
            if {int, float} & ({hint} | set(typing.get_args(hint))):
                assert parameter in NUMBERS, (name, parameter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "demo", "--processes", "0"], "--processes: 0 must be at least 1 and at most 4,096"),
        (["sweep", "run", "demo", "--at-once", "0"], "--at-once: 0 must be at least 1"),
        (["audit", "x", "--submit", "local", "--parts", "1001"], "--parts: 1001 must be at least 1 and at most 1,000"),
        (["train", "demo", "--nodes", "0"], "--nodes: 0 must be at least 1 and at most 1,048,576"),
        (
            ["preflight", "demo", "--processes", "1000000000"],
            "--processes: 1000000000 must be at least 1 and at most 4,096",
        ),
        (
            ["plan", "demo", "--step", str(10**30)],
            " must be at least 0 and at most 2,147,483,647",
        ),
        (["plan", "demo", "--step", "one"], "Invalid value for '--step': "),
        (["plan", 5000 * "x"], "is not a path: a name has at most 255 bytes"),
        (["cost", "demo", "--gpus", "0"], "--gpus: 0 must be at least 1"),
        (["cost", "demo", "--processes", "3"], "--processes: only with --calibrate"),
        (["cost", "demo", "--device", "cpu"], "--device: only with --calibrate"),
        (["cost", "demo", "--calibrate-steps", "5"], "--calibrate-steps: only with --calibrate"),
        (["cost", "demo", "--price", "nan"], "--price: nan must be at least 0"),
        (["cost", "demo", "--utilization", "0"], "--utilization: 0.0 must be above 0 and at most 1"),
        (["cost", "demo", "--accelerator", 5000 * "x"], "is not one of "),
        (
            ["evaluate", "x", "--rows-per-pass", "1000000000"],
            "--rows-per-pass: 1000000000 must be at least 1 and at most",
        ),
        (["corpus", "show", "x", "--step", "-1"], "--step: -1 must be at least 0"),
        (["corpus", "show", "x", "--step", "0", "--batch-size", "1000000000"], "--batch-size: 1000000000 must be"),
        (["corpus", "build", "x", "--out", "y", "--shard-tokens", "0"], "--shard-tokens: 0 must be at least 1"),
        (["corpus", "order", "x", "--out", "y", "--steps", "0"], "--steps: '0' is not start:stop"),
        (["analyze", "patching", "x", "--pairs", str(10**12)], "--pairs: 1000000000000 must be at least 2"),
        (["analyze", "features", "x", "--permutations", "99"], "--permutations: 99 must be at least 100"),
        (["analyze", "gradients", "x", "--precision", "fp16"], "--precision: 'fp16' is not one of fp32, bf16"),
        (["train", "demo", "--device", "tpu"], "--device: 'tpu' is not one of auto, cpu, cuda"),
        # Names of version 0.1.
        (
            ["corpus", "stage", "x", "--out", "y", "--steps", "0:5", "--part-size", "0"],
            "--file-size: 0 must be at least 1",
        ),
        (
            ["corpus", "stage", "x", "--out", "y", "--steps", "0:5", "--rank-shard", "8"],
            "--ranks: '8' is not first-last/",
        ),
    ],
)
def test_a_number_out_of_its_range_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_places_to_meet() -> None:
    for wrong in ("h:99999", "h:0", "h", ":5", "h:5:5", "h:x", "h:123456789"):
        with pytest.raises(UserError, match="is not HOST:PORT, with a port from 1 to 65535"):
            check_launch(2, wrong)
    check_launch(2, "node1:29500")


def test_rows_are_counted_before_they_are_listed() -> None:
    for wrong in ("0-99999999999", f"0-{10**30}", "8", "1,9"):
        with pytest.raises(UserError, match="a batch has rows 0 to 7"):
            parse_rows(wrong, 8)
    assert parse_rows("0-2,7,1", 8) == [0, 1, 2, 7]
    for wrong in ("3-1,5", "3-", ""):
        with pytest.raises(UserError, match="--rows: "):
            parse_rows(wrong, 8)


def test_json_has_no_number_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), (1.5, float("inf"))], "b": np.float64("nan")})
    assert json.loads(capsys.readouterr().out, parse_constant=str) == {"a": [None, [1.5, None]], "b": None}


def parsers() -> dict[str, typing.Any]:
    """The parser of every command, by its name below `olmo-inject`."""
    leaves = {}
    waiting = [("", get_command(app))]
    while waiting:
        name, parser = waiting.pop()
        waiting += [(f"{name} {key}".strip(), below) for key, below in getattr(parser, "commands", {}).items()]
        if not hasattr(parser, "commands"):
            leaves[name] = parser
    return leaves


def commands() -> dict[str, typing.Any]:
    """The function of every command."""
    return {name: parser.callback for name, parser in parsers().items()}


def options(parser: typing.Any) -> list[typing.Any]:
    return [parameter for parameter in parser.params if parameter.param_type_name == "option"]


def test_the_help_of_a_command_with_more_than_eight_options_has_panels() -> None:
    sizes = {name: Counter(option.rich_help_panel for option in options(parser)) for name, parser in parsers().items()}
    assert sum(sizes["cost"].values()) > 8
    assert {name for name, panels in sizes.items() if max(panels.values(), default=0) > 8} == set()


def test_an_option_takes_the_same_kind_of_value_in_every_command() -> None:
    kinds: dict[str, set[str]] = {}
    for command in commands().values():
        for parameter, hint in typing.get_type_hints(inspect.unwrap(command)).items():
            inner = {hint} | set(typing.get_args(hint))
            kind = "flag" if bool in inner else "number" if {int, float} & inner else "text"
            kinds.setdefault(parameter, set()).add(kind)
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    assert {"out", "steps", "processes", "tasks", "at_once"} <= kinds.keys()


def test_a_shell_completes_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    completion = {"_OLMO_INJECT_COMPLETE": "complete_bash", "COMP_WORDS": "olmo-inject sweep s", "COMP_CWORD": "2"}
    for name, value in completion.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == ["show", "submit", "status"]


NO_PATHS = {"accelerator", "targets", "dimensions", "device", "steps", "overrides", "precision", "read", "ranks",
    "rendezvous", "rows", "source", "title", "text_field", "id_field", "text_unit", "dataset_config",
    "dataset_split", "corpus sample tokenizer", "evaluate suite", "sweep show cell", "theory fit against",
    "theory fit task", "theory predict at", "only"}  # fmt: skip


def test_every_command_expands_every_path_it_takes(places: tuple[Path, Path]) -> None:
    """A new parameter of text is either no path, and then named above, or marked as one."""
    for name, command in commands().items():
        original = inspect.unwrap(command)
        assert original is not command, name
        hints = typing.get_type_hints(original, include_extras=True)
        for parameter, hint in hints.items():
            kinds = {str(kind) for kind in (typing.get_args(hint) or (hint,))[:1]}
            if "str" in str(kinds) and "Path" not in str(kinds):
                assert (PATH in hint.__metadata__) != (not {parameter, f"{name} {parameter}"}.isdisjoint(NO_PATHS)), (
                    name,
                    parameter,
                )


def test_a_command_gets_expanded_paths(places: tuple[Path, Path]) -> None:
    home, scratch = places

    def command(a: Path, b: list[Path], c: typing.Annotated[str, PATH], d: str, e: Path | None = None) -> tuple:
        return a, b, c, d, e

    given = with_expanded_paths(command)(a=Path("~/a"), b=[Path("$SCRATCH/b")], c="~/c", d="~/d", e=None)
    assert given == (home / "a", [scratch / "b"], f"{home}/c", "~/d", None)


@pytest.mark.slow
def test_from_the_command_line(places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, scratch = places
    (home / "texts").mkdir()
    (home / "texts" / "a.txt").write_text("Some words to be read. " * 50)
    build = ["corpus", "build", "~/texts", "--out", "$SCRATCH/corpus", "--processes", "1"]
    with pytest.raises(SystemExit) as ended:
        main(build)
    assert ended.value.code == 0
    assert (scratch / "corpus" / "corpus.json").is_file()
    for command in (["corpus", "verify", "$SCRATCH/corpus"], ["corpus", "show", "$SCRATCH/corpus", "--step", "0",
        "--batch-size", "2", "--sequence-length", "8"]):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0, capsys.readouterr().err
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "verify", "$UNSET/corpus"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "olmo-inject: folder: $UNSET/corpus: the environment variable UNSET is not set\n"
    assert not list(Path().iterdir()), "nothing was made under a literal name"
    shutil.rmtree(scratch / "corpus")
