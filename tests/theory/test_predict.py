import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from olmo_inject.errors import UserError
from olmo_inject.theory.commands import app
from olmo_inject.theory.mixtures.frequencies import mixture_from_frequencies, parse_rate
from olmo_inject.theory.mixtures.task_mixture import TaskMixture, power_law
from olmo_inject.theory.prediction.config import configured_mixture, load_predict_config
from olmo_inject.theory.prediction.predict import predict

OWN = """
tasks:
  common: {instances_per_batch: 9, spectrum: {power: 2, features: 3}}
  rare: {instances_per_batch: 1/10, spectrum: {values: [4, 1]}}
widths: [1, 4, 5]
gaps: [1, 50]
"""
EXPERIMENT = """
corpus: {paths: [nothing, read, here]}
train: {anything: 1}
injections:
  - {task: common, schedule: uniform, instances_per_batch: 8}
  - {task: common, instances_per_batch: 1.0, unknown: key}
  - {task: rare, schedule: uniform, instances_per_batch: 1/10}
"""
SPECTRA = """
tasks:
  common: {spectrum: {power: 2, features: 3}}
  rare: {spectrum: {values: [4, 1]}}
widths: [1, 4, 5]
gaps: [1, 50]
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, text in {"own": OWN, "experiment": EXPERIMENT, "spectra": SPECTRA}.items():
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(text)
    return paths


def test_rates_are_exact() -> None:
    assert parse_rate("1/10", "x") == parse_rate(0.1, "x") == parse_rate(" 1 / 10", "x") == Fraction(1, 10)
    for bad in ("x", "1/0", "", "1e999999999", 0, -1, float("nan"), float("inf"), "1/10/2"):
        with pytest.raises(UserError, match=r"^rate of t: "):
            parse_rate(bad, "rate of t")


def test_a_plan_s_frequencies_make_a_mixture() -> None:
    spectra = [power_law(3, 2.0), np.array([4.0, 1.0])]
    alone = mixture_from_frequencies(["a", "b"], [9, "1/10"], spectra)
    assert alone.frequencies == pytest.approx([90 / 91, 1 / 91])
    corpus = TaskMixture.power_law(3, 2, null_directions=0)
    mixed = mixture_from_frequencies(["a", "b"], [9, Fraction(1, 10)], spectra, batch=100, background=corpus)
    assert mixed.frequencies[:2] == pytest.approx([0.09, 0.001])
    assert mixed.frequencies[2:] == pytest.approx(corpus.frequencies * 0.909)
    assert mixed.features == 3 + 2 + 6
    with pytest.raises(UserError, match="batch is needed"):
        mixture_from_frequencies(["a"], [1], spectra[:1], background=corpus)
    with pytest.raises(UserError, match=r"fill 9\.1 of a batch of 9: nothing is left"):
        mixture_from_frequencies(["a", "b"], [9, "1/10"], spectra, batch=9, background=corpus)


def test_an_experiment_beside_spectra_says_the_same_as_a_file_of_its_own(files) -> None:
    own = configured_mixture(load_predict_config(files["own"]))
    for config in (
        load_predict_config(files["experiment"], files["spectra"]),
        load_predict_config(
            files["experiment"],
            overrides=[
                "tasks.common.spectrum={power: 2, features: 3}",
                "tasks.rare.spectrum.values=[4, 1]",
                "widths=[1, 4, 5]",
            ],
        ),
    ):
        mixture = configured_mixture(config)
        assert mixture.names == own.names
        assert mixture.frequencies == pytest.approx(own.frequencies, abs=1e-15)
        assert mixture.utilities == pytest.approx(own.utilities)


def test_a_plan_says_rates_of_every_schedule_and_the_batch(files, tmp_path: Path) -> None:
    entry = {"schedule": "burst", "draw": "independent", "stop": None, "per_token": 0.00390625, "instances": 4032}
    plan = {
        "steps": 500,
        "batch_size": 64,
        "sequence_length": 32,
        "injections": {
            "common": {**entry, "instances_per_batch": "8"},
            "rare": {**entry, "schedule": "uniform", "instances_per_batch": "1/60"},
            "rare/2": {**entry, "schedule": "repetitions", "instances_per_batch": "1/60"},  # of the same task
        },
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan, indent=2))
    config = load_predict_config(path, files["spectra"], ["background={tasks: 3, power: 1}"])
    assert config.batch == 64
    mixture = configured_mixture(config)
    assert mixture.names[:2] == ("common", "rare")
    assert mixture.frequencies[:2] == pytest.approx([8 / 64, 1 / 30 / 64], rel=1e-15)
    assert mixture.frequencies.sum() == pytest.approx(1)


def test_bursts_of_an_experiment_count_at_their_long_run_rate(files, tmp_path: Path) -> None:
    path = tmp_path / "bursts.yaml"
    path.write_text(
        "injections:\n"
        "  - {task: common, schedule: burst, instances: 64, every: 8, phase: 3}\n"
        "  - {task: common, schedule: bernoulli, instances_per_batch: 1}\n"
        "  - {task: rare, schedule: burst, instances: 1, every: 10}\n"
    )
    found = configured_mixture(load_predict_config(path, files["spectra"]))
    assert (found.frequencies == configured_mixture(load_predict_config(files["own"])).frequencies).all()


def test_shares_and_background(tmp_path: Path) -> None:
    path = tmp_path / "shares.yaml"
    path.write_text(
        "tasks: {a: {frequency: 1/4, spectrum: {power: 1}}}\n"
        "background: {tasks: 4, power: 1, spectrum: {power: 2, features: 3}}\n"
    )
    mixture = configured_mixture(load_predict_config(path))
    assert mixture.names == ("a", "corpus-1", "corpus-2", "corpus-3", "corpus-4")
    assert mixture.frequencies == pytest.approx([0.25, 0.36, 0.18, 0.12, 0.09])
    assert mixture.dimension == 128


def test_prediction_by_hand() -> None:
    # Utilities: a .6, .3; b .4, .1; so the order is a1 b1 a2 b2.
    mixture = TaskMixture(np.array([0.5, 0.5]), (np.array([1.2, 0.6]), np.array([0.8, 0.2])), ("a", "b"))
    found = predict(mixture, [1, 2, 3, 4], [1, 20], step_size=0.1)
    assert found.retained.tolist() == [[1, 0], [1, 1], [2, 1], [2, 2]]
    assert found.signals[1] == pytest.approx([2 / 3, 0.8])
    assert found.first.tolist() == [1, 2]
    assert found.complete.tolist() == [3, 4]
    assert found.losses == pytest.approx([0.8, 0.4, 0.1, 0.0])
    assert found.learned[:, 1].tolist()[0] == 0
    assert np.isinf(found.learned[2:]).all()
    assert not found.tied.any()
    # Over 20 steps b's first feature grows against a2, 0.3, but not against a1, 0.6.
    eta = 0.1 / 0.6
    growth = [19 * np.log(1 - 2 * eta * rival) + np.log(1 + 2 * eta * (20 * 0.4 - rival)) for rival in (0.6, 0.3)]
    assert found.by_gap[1, 1] == 1 + sum(g <= 0 for g in growth)


def test_the_documented_example_says_what_the_page_says() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "theory.md").read_text()
    assert (docs / "predict.yaml").read_text().strip() in page
    result = CliRunner().invoke(app, ["predict", str(docs / "predict.yaml"), "--json"])
    simple, complex_ = json.loads(result.stdout)["tasks"][:2]
    assert (simple["critical_width"], complex_["critical_width"]) == (7, 92)
    assert complex_["by_width"]["64"]["held_features"] == 0
    assert complex_["by_width"]["96"]["learned_up_to"] == 1438
    assert complex_["by_width"]["96"]["kept_up_to"] == 7584
    # The simple task grows from nothing at gaps far beyond those at which it stays.
    assert simple["by_width"]["128"] | {"held_share": 0} == {
        "held_features": 4,
        "held_share": 0,
        "learned_up_to": 114_408,
        "kept_up_to": 138,
        "oscillates_from": 139,
    }


def test_a_tie_at_an_edge_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tied.yaml"
    tied = "{frequency: 0.5, spectrum: {values: [2, 1]}}"
    path.write_text(f"tasks: {{a: {tied}, b: {tied}}}\nwidths: [1, 2, 3]\n")
    result = CliRunner().invoke(app, ["predict", str(path)])
    assert "At N = 1, 3 two utilities are equal" in result.output


def test_command_prints_tables_and_json(files) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["predict", str(files["own"])])
    assert shown.exit_code == 0, shown.output
    assert "common" in shown.output
    assert "kept up to" in shown.output
    result = runner.invoke(app, ["predict", str(files["own"]), "--json", "widths=[2]"])
    document = json.loads(result.stdout)
    assert [task["task"] for task in document["tasks"]] == ["common", "rare"]
    assert document["tasks"][0]["frequency"] == pytest.approx(90 / 91)
    assert list(document["mixture_loss"]) == ["2"]
    # Nothing else competes beyond the other task's features: any gap is survived.
    wide = json.loads(runner.invoke(app, ["predict", str(files["own"]), "--json"]).stdout)
    assert wide["tasks"][1]["by_width"]["5"]["learned_up_to"] is None


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("missing", [], "missing.yaml: cannot be read: No such file"),
        ("own", ["bacth=1"], "override 'bacth=1': bacth: Key 'bacth' not in"),
        ("own", ["widths"], "is not key=value"),
        ("own", ["widths=[0]"], "width must be a whole number.*, got 0"),
        ("own", ["widths=[]"], "one or more entries"),
        ("own", ["widths=x"], "widths"),
        ("own", ["gaps=[0]"], "gap must be a whole number of 1 or more, got 0"),
        ("own", ["step_size=0.5"], "step_size must be a finite number above 0 and below 0.5, got 0.5"),
        ("own", ["step_size=nan"], "step_size must be a finite number above 0"),
        ("own", ["tasks.rare.instances_per_batch=-1"], "task 'rare': -1 is negative"),
        ("own", ["tasks.rare.instances_per_batch=often"], "task 'rare': 'often' is not a number or a fraction"),
        (
            "own",
            ["tasks.rare.frequency=0.1"],
            "tasks.rare: give frequency or instances_per_batch|tasks.common: give",
        ),
        ("own", ["tasks.rare.spectrum.values=[1, 2]"], "'rare' must not increase"),
        ("own", ["tasks.rare.spectrum.power=1"], "tasks.rare.spectrum: give either power"),
        ("own", ["tasks.common.spectrum.features=0"], "tasks.common.spectrum: the length of a power law must be"),
        ("own", ["background.tasks=0", "batch=64"], "background: the length of a power law must be"),
        ("own", ["background.tasks=3"], "batch is needed beside a background"),
        ("own", ["tasks.rare=3"], "override 'tasks.rare=3'"),
        ("own", ["frequent_mass=2"], "at most 1, got 2"),
        ("experiment", [], "tasks.common.spectrum: give either power"),
        ("experiment", ["injections=[]"], "Key 'injections' not in"),
    ],
)
def test_every_mistake_is_one_line(files, tmp_path: Path, name: str, overrides: list[str], message: str) -> None:
    path = files.get(name, tmp_path / f"{name}.yaml")
    result = CliRunner().invoke(app, ["predict", str(path), *overrides])
    assert isinstance(result.exception, UserError), result.exception
    assert "\n" not in str(result.exception)
    with pytest.raises(UserError, match=message):
        raise result.exception


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("injections: []", "injections must be a list of one or more"),
        ("injections: 3", "injections must be a list"),
        ("injections: [{schedule: uniform}]", r"injections\[0\] must name its task"),
        ("injections: [{task: a}]", r"injections\[0\] does not give instances_per_batch; use the JSON"),
        ("injections: [{task: a, per_token: 1e-6}]", "does not give instances_per_batch; use the JSON of `olmo-inject"),
        ("extends: base.yaml\ninjections: [{task: a, instances_per_batch: 1}]", "extends another .* use the JSON"),
        ("extends: base.yaml", "extends another .* use the JSON of `olmo-inject plan EXPERIMENT --json`"),
        (
            "injections: [{task: a, schedule: often, instances_per_batch: 1}]",
            "'often' is not uniform, .* use the JSON",
        ),
        ("injections: [{task: a, schedule: burst, instances: 1}]", "a burst must give instances and every"),
        ("injections: [{task: a, schedule: burst, instances: 1, every: 0}]", r"\[0\].every: 0 is not above 0"),
        ('{"injections": {}, "batch_size": 8}', "the plan injects no task"),
        ('{"injections": {"a": {"instances_per_batch": "1"}}}', "must give batch_size"),
        ('{"injections": {"a": {}}, "batch_size": 8}', "injections.a must give instances_per_batch"),
        ('{"injections": {"a": {"instances_per_batch": "0"}}, "batch_size": 8}', "per_batch: 0 is not above 0"),
        (
            "injections: [{task: a, instances_per_batch: zero}]",
            r"injections\[0\].instances_per_batch: 'zero' is not a number",
        ),
        ("[1, 2]", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("{}", "tasks: one or more are needed"),
        ("tasks: {a: {frequency: 0.5, spectrum: {power: 1}}}", "must sum to 1, got 0.5"),
        ("tasks: {a: {spectrum: {power: 1}}}", "tasks.a: give frequency or instances_per_batch"),
        ("tasks: {a: {frequency: 1, spectrum: {power: 1}}}\nbackground: {}", "leaves nothing for the background"),
    ],
)
def test_every_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        configured_mixture(load_predict_config(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_from_the_main_command_line_a_mistake_exits_with_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "olmo_inject", "theory", "predict", str(tmp_path / "none.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("none.yaml: cannot be read: No such file or directory\n")
