"""One process at a time: who waits a little, and what is said to who cannot have it."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from olmo_inject.errors import UserError
from olmo_inject.utils.locks import locked, remove_with_lock


def test_a_lock_is_held_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    asked: list[int] = []

    def in_use() -> str:
        asked.append(1)
        return "held by me"

    with locked(path, in_use, "it"):
        assert not asked, "who holds it is only looked up when it is held"
        with pytest.raises(UserError, match="held by me"), locked(path, in_use, "it"):
            pytest.fail("held twice")
    with locked(path, in_use, "it"):
        pass
    assert asked == [1]


def test_one_who_only_looks_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.15, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with locked(path, lambda: "in use", "it"), pytest.raises(BlockingIOError):
            fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)  # it is held, after all


@pytest.mark.parametrize("made_again", [False, True])
def test_a_file_that_another_removed_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_again: bool
) -> None:
    """Between opening and locking it, its last holder removes it, and perhaps a third makes it again."""
    path = tmp_path / "work" / "lock"
    flock = fcntl.flock

    def late(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        remove_with_lock(path)
        if made_again:
            path.parent.mkdir()
            path.touch()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(path, str, "it"):
        assert fcntl.flock is flock
        with path.open() as there, pytest.raises(BlockingIOError):
            flock(there, fcntl.LOCK_SH | fcntl.LOCK_NB)
        (path.parent / "more").touch()
        remove_with_lock(path)
        assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the thing: "), locked(tmp_path / "file" / "x", str, "the thing"):
        pytest.fail("held")
