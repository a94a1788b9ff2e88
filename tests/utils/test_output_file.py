"""A command checks the file or folder that it is to write before it works. It replaces no file of another kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo_inject.cli import main
from olmo_inject.corpus.manifest import Manifest, write_manifest
from olmo_inject.errors import UserError
from olmo_inject.utils.output_file import MANIFEST, PAGE, PARQUET, PICTURES, SCAN, FileKind, check_output

NOT_THERE = "not-there"  # what the commands would read, if they did not look at their output first
FILES = {
    "plan": ("plan", NOT_THERE, "--parquet"),
    "evaluate": ("evaluate", NOT_THERE, "--parquet"),
    "report": ("report", NOT_THERE, "--out"),
    "scan": ("corpus", "scan", NOT_THERE, "demo", "--out"),
    "manifest": ("corpus", "manifest", "dolma-v1_7", "--root", NOT_THERE, "--out"),
    "order": ("corpus", "order", NOT_THERE, "--steps", "0:1", "--out"),
    "fit": ("theory", "fit", NOT_THERE, "--picture"),
}
FOLDERS = {
    "unshard": ("unshard", NOT_THERE, "--out"),
    "export": ("export", NOT_THERE, "--no-tokenizer", "--out"),
    "stream": ("corpus", "export", NOT_THERE, "--steps", "0:1", "--out"),
    "figures": ("report", NOT_THERE, "--out", "page.html", "--figures"),
    "theory": ("theory", "figures", "--out"),
}


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", FILES.values(), ids=FILES)
def test_a_file_of_the_users_is_kept(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (mine := tmp_path / "mine.svg").write_text("name: mine\n")
    assert f"{mine} " in said(capsys, *command, mine)
    assert mine.read_text() == "name: mine\n"
    for place in (tmp_path, Path("/"), Path()):
        assert command[-1] in said(capsys, *command, place) or command[:2] == ("theory", "fit")  # which ending it has


@pytest.mark.parametrize("command", [*FILES.values(), *FOLDERS.values()], ids=[*FILES, *FOLDERS])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below.svg"
    assert f"{tmp_path / 'file'} is not a folder" in said(capsys, *command, below)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("kind", [PARQUET, SCAN, MANIFEST, PAGE, *PICTURES.values()], ids=lambda kind: kind.name)
def test_a_file_of_the_same_kind_is_replaced(kind: FileKind, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for content in (b"", kind.beginning + b"more"):
        own.write_bytes(content)
        check_output(own, kind, "--out")
    for content in (kind.beginning[:-1], b"another" + kind.beginning):
        own.write_bytes(content)
        with pytest.raises(UserError, match=f"--out: .*own is not overwritten: it is not {kind.name}"):
            check_output(own, kind, "--out")
    with pytest.raises(UserError, match="not overwritten"):
        check_output(Path("/dev/null"), kind, "--out")


def test_a_manifest_is_replaced(tmp_path: Path) -> None:
    write_manifest(Manifest("name", "root", "listing", "uint16", 8, 1, "fingerprint", [16]), tmp_path / "manifest.json")
    check_output(tmp_path / "manifest.json", MANIFEST, "--out")
