import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.commands import app
from olmo_inject.theory.measurements import last_of_each_run, read_measurements
from olmo_inject.theory.scaling.laws import ScalingLaw

LAW = ScalingLaw(1.7, 20.0, 30.0, 0.4, 0.3)


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes, data = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e3, 1e6, 5), np.geomspace(1e4, 1e8, 5)))
    noise = np.exp(0.002 * np.random.Generator(np.random.Philox(key=1)).standard_normal(len(sizes)))
    path = tmp_path_factory.mktemp("fit") / "losses.csv"
    pd.DataFrame({"size": sizes, "data": data, "loss": LAW.loss(sizes, data) * noise}).to_csv(path, index=False)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["fit", *map(str, arguments)], catch_exceptions=True)


@pytest.mark.slow
def test_a_csv_gives_the_law_its_intervals_and_a_picture(csv: Path) -> None:
    picture = csv.with_suffix(".svg")
    result = run(csv, "--resamples", 20, "--picture", picture, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    low, high = document["law"]["alpha"]["interval"]
    assert low <= 0.41
    assert high >= 0.39
    assert document["law"]["irreducible"]["value"] == pytest.approx(1.7, rel=0.05)
    assert picture.read_text().count("<svg") == 1
    first = picture.read_bytes()
    assert run(csv, "--resamples", 20, "--picture", picture).output.count("95% interval")
    assert picture.read_bytes() == first


@pytest.mark.parametrize(("wrong", "shown"), [("", "nan"), ("abc", "abc"), ("-1", "-1"), ("inf", "inf")])
def test_a_wrong_number_is_named_with_its_row(tmp_path: Path, wrong: str, shown: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(f"size,loss\n1e3,4\n1e4,{wrong}\n1e5,2\n1e6,1\n")
    error = run(path, "--against", "size").exception
    assert isinstance(error, UserError)
    assert str(error) == f"column 'loss' must hold numbers above 0, got {shown} in data row 2"


def test_numbers_with_commas_are_not_sorted_as_text(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text('run,width,data,loss\na,8,900,3\na,8,"1,000",2\n')
    error = run(path, "--against", "width").exception
    assert isinstance(error, UserError)
    assert str(error) == "column 'data' must hold numbers above 0, got 1,000 in data row 2"


def test_a_quantity_of_one_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("frequency,loss\n" + "2,1.5\n" * 5)
    error = run(path, "--against", "frequency").exception
    assert isinstance(error, UserError)
    assert str(error).startswith("frequency must take three or more different values")


def test_nothing_is_fitted_for_a_picture_that_cannot_be_written(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo_inject.theory.scaling.fit.fit_scaling_law", None)
    for picture, message in (("x.jpg", "must end in .png, .svg or .pdf"), (csv / "x.png", "cannot write")):
        error = run(csv, "--picture", picture).exception
        assert isinstance(error, UserError)
        assert message in str(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "size,width"], "--against must be one of size, width, data, frequency or size,data"),
        (["--against", "frequency"], "have no column 'frequency'"),
        (["--task", "none"], "no loss of task 'none' was measured"),
        (["--resamples", "-1"], "resamples"),
    ],
)
def test_a_mistake_is_one_line(csv: Path, arguments: list[str], message: str) -> None:
    error = run(csv, *arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)


def test_tables_say_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("size,task\n1,a\n")
    with pytest.raises(UserError, match="must have a column loss"):
        read_measurements([path])
    path.write_text("")
    with pytest.raises(UserError, match="cannot read .* as CSV"):
        read_measurements([path])
    with pytest.raises(UserError, match="name one CSV"):
        read_measurements([path, tmp_path])
    path.write_text("run,data,loss\na,1,3\na,2,2\nb,1,4\n")
    assert sorted(last_of_each_run(read_measurements([path]))["loss"]) == [2, 4]


def test_run_folders_are_read_from_their_files(tmp_path: Path) -> None:
    for width in (8, 16):
        folder = tmp_path / "runs" / f"n-{width}"
        folder.mkdir(parents=True)
        (folder / "experiment.yaml").write_text(
            f"model: {{d_model: {width}, n_heads: 2, n_kv_heads: null, n_layers: 2, mlp_ratio: 8, "
            "mlp_hidden_size: null, activation_type: swiglu, vocab_size: 2048, embedding_size: 2048}\n"
        )
        injected = {"instances_per_batch": "3/16", "steps_between_observations": {"mean": 4.0}}
        again = {"instances_per_batch": "1/16", "steps_between_observations": None}
        plan = {"batch_size": 64, "sequence_length": 32, "injections": {"a": injected, "a/2": again}}
        (folder / "plan.json").write_text(json.dumps(plan))
        lines = [("train/lm_loss", 0, 7.0), ("eval/a/train/loss", 0, 6.0), ("eval/a/train/loss", 10, 3.0)]
        written = [json.dumps({"step": step, "name": name, "value": value}) for name, step, value in lines]
        (folder / "metrics.jsonl").write_text("\n".join([*written, '{"step": 11, "na']))
    table = read_measurements([tmp_path])
    assert sorted(table["size"].unique()) == [18432, 40960]  # as ai2-olmo counts them
    last = last_of_each_run(table[table["task"] == "a"]).sort_values("width")
    assert last[["width", "data", "frequency", "gap", "loss"]].to_numpy().tolist() == [
        [8, 20480, 0.25, 4, 3],
        [16, 20480, 0.25, 4, 3],
    ]
    (tmp_path / "runs" / "n-8" / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the run"):
        read_measurements([tmp_path])
    with pytest.raises(UserError, match="holds no run"):
        read_measurements([_empty(tmp_path)])


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
