"""`~` and `$NAME` in paths, wherever one is taken: keys of files, overrides and the command line."""

from __future__ import annotations

import inspect
import shutil
import typing
from pathlib import Path

import pytest
from typer.main import get_command

from olmo_inject.cli import app, main
from olmo_inject.config import load_experiment
from olmo_inject.errors import UserError
from olmo_inject.paths import PATH, expanded, with_expanded_paths

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


def commands() -> dict[str, typing.Any]:
    found = {}
    waiting = [("", get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {key}".strip(), below) for key, below in getattr(command, "commands", {}).items()]
        if not hasattr(command, "commands"):
            found[name] = command.callback
    return found


NO_PATHS = {"accelerator", "targets", "dimensions", "device", "steps", "overrides", "read", "rank_shard", "rendezvous",
    "rows", "show", "source", "submit", "title", "text_field", "id_field", "text_unit", "dataset_config",
    "dataset_split", "corpus sample tokenizer"}  # fmt: skip


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


def test_from_the_command_line(places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, scratch = places
    (home / "texts").mkdir()
    (home / "texts" / "a.txt").write_text("Some words to be read. " * 50)
    build = ["corpus", "build", "~/texts", "--to", "$SCRATCH/corpus", "--processes", "1"]
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
