"""The injected stream as files: what they hold, and that a change of them is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from streams import BATCH, LENGTH, write_stream

from olmo_inject.audit import audit_run
from olmo_inject.cli import main
from olmo_inject.config import load_described
from olmo_inject.data import ExperimentData, build_data
from olmo_inject.errors import UserError
from olmo_inject.runs.export import export_stream


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_stream(tmp_path, "file")


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def data_of(config: Path) -> ExperimentData:
    return build_data(load_described(config))


def test_the_files_hold_the_stream_in_order_and_audit_checks_them(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "stream"
    assert command("corpus", "export", config, "--steps", "2:7", "--out", to, "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    written = np.concatenate([np.fromfile(to / file["name"], np.uint16) for file in files])
    expected = data_of(config).corpus.rows(np.arange(2 * BATCH, 7 * BATCH))["input_ids"].numpy()
    assert np.array_equal(written.reshape(-1, LENGTH), expected)
    assert audit_run(to, progress=False).verdict == "identical"
    written[3 * LENGTH] ^= 1
    written.tofile(to / files[0]["name"])
    found = audit_run(to, progress=False).differences
    assert len(found) == 1
    assert found[0].startswith("step 2: tokens in the files")


def test_shards_are_cut_between_steps(config: Path, tmp_path: Path) -> None:
    step_bytes = BATCH * LENGTH * 2
    export = export_stream(
        load_described(config), data_of(config), range(8), tmp_path / "s", shard_bytes=3 * step_bytes
    )
    assert [file["steps"] for file in export.files] == [3, 3, 2]
    assert audit_run(tmp_path / "s", progress=False).verdict == "identical"
    (tmp_path / "s" / "part-00001.npy").unlink()
    with pytest.raises(UserError, match=r"part-00001\.npy is missing, or not as long as it was written"):
        audit_run(tmp_path / "s", progress=False)


def test_what_cannot_be_exported(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for steps, to, message in (
        ("0:9", "new", "--steps: 0:9 is not within the run's 0:8"),
        ("0:8", "full", "is not a new or empty folder; choose another folder"),
    ):
        assert command("corpus", "export", config, "--steps", steps, "--out", tmp_path / to) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_what_is_written_there_meanwhile_is_kept(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "stream"

    def hashed(_: Path) -> str:
        to.mkdir()
        (to / "mine").touch()
        return ""

    monkeypatch.setattr("olmo_inject.runs.export.sha256_of", hashed)
    with pytest.raises(UserError, match="is not a new or empty folder"):
        export_stream(load_described(config), data_of(config), range(8), to)
    assert [path.name for path in to.iterdir()] == ["mine"]
    assert not list(tmp_path.glob(".*"))


def test_an_export_that_is_interrupted_leaves_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, data, to = load_described(config), data_of(config), tmp_path / "stream"

    def interrupted(folder: Path) -> None:
        assert not to.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("olmo_inject.runs.export.sha256_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_stream(experiment, data, range(8), to)
    assert [path.name for path in tmp_path.iterdir() if "stream" in path.name] == [config.name]
    to.mkdir()  # an empty folder will do
    assert export_stream(experiment, data, range(8), to).folder == to
    assert load_described(to / "experiment.yaml").folder == str(to)
