"""What is in a stage's folder, or on its disk, and who else is at work there."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from named import BATCH, LENGTH
from stages import VOCABULARY, check_same, contents, opened, stage

from olmo_inject.corpus.staged import RankRange, StagedShards, read_stage
from olmo_inject.corpus.staging import Staged, open_stager, planned_files
from olmo_inject.corpus.verify import damaged, recorded_files
from olmo_inject.errors import UserError
from olmo_inject.utils.locks import locked


def test_a_damaged_run_is_made_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, order = opened(root)
    to = tmp_path / "s"
    how = {"read": "stream", "memory_bytes": 0}
    stager = open_stager(shards, order, VOCABULARY, range(20), to, **how)
    with monkeypatch.context() as patch:
        patch.setattr(stager, "_assemble", lambda missing, streamed, halt: False)
        assert not stager.run(lambda n: None)
    run = sorted((to / ".staging").glob("*.rows"))[1]
    content = bytearray(run.read_bytes())
    content[100] ^= 1
    run.write_bytes(content)
    with pytest.raises(UserError, match=f"{run.name} is damaged; the same command writes it again"):
        open_stager(shards, order, VOCABULARY, range(20), to, **how).run(lambda n: None)
    stage(shards, order, range(20), to, file_bytes=512 << 20, **how)
    check_same(to, shards, order)


def test_damage_and_loss_are_found(root: Path, tmp_path: Path) -> None:
    shards, order = opened(root)
    to = tmp_path / "s"
    stage(shards, order, range(5), to)
    path = to / "part-00002.npy"
    content = bytearray(path.read_bytes())
    content[7] ^= 4
    path.write_bytes(content)
    assert damaged(recorded_files(to), lambda n: None) == ["part-00002.npy"]
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"part-00002\.npy has 318 bytes where the manifest records 320"):
        StagedShards(read_stage(to), LENGTH)
    with pytest.raises(UserError, match=r"part-00002\.npy is missing or of another size; --overwrite stages anew"):
        stage(shards, order, range(5), to)
    stage(shards, order, range(5), to, overwrite=True)
    check_same(to, shards, order)


def test_what_is_in_the_folder_is_respected(root: Path, tmp_path: Path) -> None:
    shards, order = opened(root)
    to = tmp_path / "s"
    stage(shards, order, range(5), to)
    with pytest.raises(Staged):
        stage(shards, order, range(5), to)
    for other, what in (
        ({"steps": range(6)}, "a stage of steps 0:5, not steps 0:6"),
        ({"ranks": RankRange(0, 0, 2)}, "a stage of all rows, not the rows of ranks 0-0 of 2"),
        ({"file_bytes": 640}, "a stage of files of 10 sequences, not files of 20 sequences"),
    ):
        with pytest.raises(UserError, match=f"s holds {what}; --overwrite replaces a stage"):
            stage(shards, order, **{"steps": range(5), "to": to, **other})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"mine holds thesis\.tex, but no stage; "):
        open_stager(shards, order, VOCABULARY, range(5), tmp_path / "mine")
    for name in ("part-00000.npy", "part-0001.jsonl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(UserError, match=f"is not overwritten: it holds {name}, "):
            open_stager(shards, order, VOCABULARY, range(5), tmp_path / name, overwrite=True)
        assert (tmp_path / name / name).read_text() == "mine"
    with pytest.raises(UserError, match="is not a folder"):
        open_stager(shards, order, VOCABULARY, range(5), tmp_path / name / name)
    (to / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"is not overwritten: it holds thesis\.tex, which is no part of a stage"):
        stage(shards, order, range(6), to, overwrite=True)
    assert len(list(to.glob("part-*"))) == 4


def test_a_stage_is_not_continued_from_another_corpus_of_equal_names_and_sizes(root: Path, tmp_path: Path) -> None:
    shards, order = opened(root)
    shutil.copytree(root, tmp_path / "copy")
    copied, _ = opened(tmp_path / "copy")
    assert copied.fingerprint() == shards.fingerprint()
    stager = open_stager(shards, order, VOCABULARY, range(5), tmp_path / "s", file_bytes=20 * LENGTH)
    assert not stager.run(lambda n: None, lambda: True)
    with pytest.raises(UserError, match="holds the beginning of a stage of shards in another place; --overwrite"):
        stage(copied, order, range(5), tmp_path / "s")
    stage(shards, order, range(5), tmp_path / "s")
    check_same(tmp_path / "s", shards, order)


def test_two_at_once_in_one_folder(root: Path, tmp_path: Path) -> None:
    stager = open_stager(*opened(root), VOCABULARY, range(5), tmp_path / "s")
    work = tmp_path / "s" / ".staging"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use: another process is staging there"):
            stager.run(lambda n: None)
    assert stager.run(lambda n: None)


def test_one_that_was_opened_before_another_staged_there_leaves_it_alone(root: Path, tmp_path: Path) -> None:
    to = tmp_path / "s"
    first, second = (open_stager(*opened(root), VOCABULARY, range(n), to) for n in (5, 6))
    assert first.run(lambda n: None)
    before = contents(to)
    with pytest.raises(UserError, match="another process has staged there meanwhile"):
        second.run(lambda n: None)
    with (
        locked(to / ".staging" / "lock", str, "it"),
        pytest.raises(UserError, match="is in use: another process is staging"),
    ):
        open_stager(*opened(root), VOCABULARY, range(6), to, overwrite=True)
    (to / ".staging" / "left").touch()
    with pytest.raises(Staged):
        open_stager(*opened(root), VOCABULARY, range(5), to)
    assert contents(to) == before


def test_a_disk_that_forgets_is_not_trusted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk gives back is compared, to the last byte, with what was to be written."""
    shards, order = opened(root)
    content = shards.read(order[np.arange(8 * BATCH)]).tobytes()
    advanced: list[int] = []
    for number, kept in enumerate((content, content[:-1] + bytes([content[-1] ^ 1]), content[:-1], content + b"\0")):
        path = tmp_path / str(number)
        path.write_bytes(kept)
        sound = planned_files._is_on_disk(path, np.frombuffer(content, np.uint8), advanced.append)
        assert sound == (kept == content)
    monkeypatch.setattr(planned_files, "_is_on_disk", lambda path, content, advance: False)
    with pytest.raises(UserError, match="the disk returns other bytes than were written, so it cannot be trusted"):
        stage(shards, order, range(5), tmp_path / "s")
    assert not (tmp_path / "s" / "stage.json").exists()


def test_a_disk_that_is_too_small(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, order = opened(root)
    needed = 20 * BATCH * 2 * LENGTH
    to = tmp_path / "deep" / "s"
    stager = open_stager(shards, order, VOCABULARY, range(20), to, read="stream", memory_bytes=needed - 1)
    assert stager.disk_bytes == 2 * needed + 16 * 20 * BATCH, "the stage, the runs, their indices"
    assert "for runs that are deleted at the end" in stager.describe()[-1]
    stager = open_stager(shards, order, VOCABULARY, range(20), to, read="stream", memory_bytes=needed)
    assert stager.disk_bytes == needed
    assert "5.1 kB of memory for streamed sequences" in stager.describe()[-1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 0, needed - 1))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"needs 5\.1 kB of disk, 5\.1 kB are free"):
        stager.check_disk()

    def prepare() -> None:
        raise AssertionError("the order is not read for a stage that cannot be")

    with pytest.raises(UserError, match=r"needs 5\.1 kB of disk, 5\.1 kB are free"):
        open_stager(shards, order, VOCABULARY, range(20), to, prepare=prepare)
    assert not (tmp_path / "deep").exists()


def test_a_record_of_another_kind(tmp_path: Path) -> None:
    for content, message in (({"format": 9}, "has format 9"), ({"format": 1, "parts": []}, "is not the description")):
        (tmp_path / "stage.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            read_stage(tmp_path)
