"""The report on real runs: whole, alone, and honest about what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from copies import Copies
from matplotlib.figure import Figure
from pages import write_text

from analysis.read.in_run_gradients import in_run_cosines
from analysis.read.runs import read_run
from analysis.read.samples import Row, Sample
from analysis.report.findings import sentences
from analysis.report.page import Drawing, Section, Table, write_page
from analysis.report.report import write_report
from olmo_inject.audit import NO_EVIDENCE, audit_run
from olmo_inject.cli import main
from olmo_inject.errors import UserError
from olmo_inject.runs.read import AUDIT
from olmo_inject.utils.files import write_json
from olmo_inject.utils.output_file import PAGE, check_output

pytestmark = pytest.mark.slow

LOADING = {"src", "href", "srcset", "data", "action", "poster"}
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The text of a page, what it would load, its images and tables; refuses tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        addresses = [value or "" for name, value in attrs if name in LOADING]
        self.links += [address[1:] for address in addresses if address.startswith("#")]
        self.loads += [address for address in addresses if not address.startswith("#")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += " " + data


@pytest.fixture(scope="module")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run; not to be changed."""
    return write_report([trained], tmp_path_factory.mktemp("report") / "page.html")[0]


def test_a_page_of_everything_is_whole_and_loads_nothing(trained: Path, copies: Copies, tmp_path: Path) -> None:
    write_json(trained / AUDIT, audit_run(trained, progress=False).record())
    often = copies.make("often", ("instances_per_batch: 5/2", "instances_per_batch: 4"), accuracy={"less": (99, 100)})
    runs = [trained, often, copies.make("cut"), copies.make("begun")]
    metrics = runs[2] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().split('{"step": 6,')[0])
    (runs[3] / "metrics.jsonl").unlink()
    shutil.rmtree(runs[3] / "analysis")
    written = write_report(runs, tmp_path / "out" / "page.html", title="Two <tasks>", figures_to=tmp_path / "figures")
    source, page = written[0].read_text(encoding="utf-8"), Page(written[0])

    assert page.loads
    assert all(address.startswith(("data:image/svg+xml;base64,", "data:text/csv;base64,")) for address in page.loads)
    for address in page.loads[::2]:
        ElementTree.fromstring(base64.b64decode(address.split(",", 1)[1]))
    assert not re.search(r"@import|url\(|<script src|fetch\(|import\(", source)

    assert page.links == page.ids  # the contents, in the order of the sections
    assert page.links[:3] == ["findings", "what-bursts-leave-behind", "accuracy-over-size-and-frequency"]

    assert "Two &lt;tasks&gt;" in source
    assert "Not trained to the end: begun (0 of 12 steps), cut (6 of 12 steps)" in page.text
    assert "often less learned 0.990 (0.946 to 0.998) tiny-8 4 per batch 12 identical" in page.text
    assert "identical" in page.text
    assert "not audited" in page.text
    assert "2 every 3 batches" in page.text
    assert "endoftext" not in page.text  # bare ids, which are shown as such
    assert "<id 0>" in page.text

    figures = {path.name for path in written[1:]}
    assert figures == {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"heatmap-less.svg", "heatmap-less.png", "plan.png", "overview-less.png"} <= figures
    assert "heatmap-plus.png" not in figures  # it comes in bursts alone


def test_every_figure_has_its_data_and_its_command(trained: Path, page: Path) -> None:
    source = page.read_text()
    assert source.count("<figcaption>") == source.count('download="') == source.count('"data:text/csv;base64,')
    [curve] = re.findall(r'href="data:text/csv;base64,([^"]*)" download="test-loss-less.csv"', source)
    table = pd.read_csv(io.BytesIO(base64.b64decode(curve)))
    assert set(table["name"]) == {"eval/less/test/loss"}
    measured = read_run(trained).series("eval/less/test/loss")
    assert table["value"].to_list() == pytest.approx(measured.to_list(), rel=1e-5)
    assert table["step"].to_list() == measured.index.to_list()
    assert "<code>olmo-inject report RUNS" in source


def test_cosines_measured_while_training_have_a_section(copies: Copies, tmp_path: Path) -> None:
    run = copies.make("run", ("  neurons: 16\n", "  neurons: 4\n"))
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(9):
            for kind, value in (("batch", 0.1), ("injected", 0.2), ("rest", -0.3)):
                for measure in ("cos", "norm"):
                    name = f"gradient/plus/{measure}_{kind}"
                    file.write(json.dumps({"step": step, "name": name, "value": value}) + "\n")
    table = in_run_cosines([read_run(run)])
    assert table.groupby("kind")["cosine"].mean().to_dict() == pytest.approx(
        {"batch": 0.1, "injected": 0.2, "rest": -0.3}
    )
    assert table["norm"].equals(table["cosine"])
    assert set(table.loc[table["instances"] > 0, "step"]) == {0, 3, 6}  # a burst every three steps
    page = Page(write_text([run], tmp_path / "page.html"))
    assert "gradient-interference-measured-while-training" in page.ids
    assert page.text.count("-0.300") == 2  # mean cosines with and without the task


def test_a_figure_wider_than_the_page_scrolls(tmp_path: Path) -> None:
    """Its text keeps its size: it is not shrunk to the width of a telephone."""
    drawing = Drawing("wide", Figure(figsize=(10, 2)), "A wide figure.", pd.DataFrame())
    write_page(tmp_path / "page.html", "Page", [Section("Seen", drawings=[drawing])])
    source = (tmp_path / "page.html").read_text()
    assert re.search(r'<div class="scroll" tabindex="0"><img [^>]*width="960"', source)
    assert ".scroll { overflow-x: auto" in source
    assert "figure img { height: auto; display: block;" in source


def test_a_column_without_a_value_is_not_shown(tmp_path: Path) -> None:
    rows = [{"run": "a", "kept": "", "half-life": ""}, {"run": "b", "kept": "", "half-life": "4"}]
    write_page(tmp_path / "page.html", "Runs", [Section("Bursts", tables=[Table("Kept", rows, ("run",))])])
    page = Page(tmp_path / "page.html")
    assert "run half-life a b 4" in page.text
    assert "kept" not in page.text


def test_a_row_of_any_task_is_told_from_one_that_is_not_injected(tmp_path: Path) -> None:
    rows = [
        Row(3, None, [], None, "", "plain text"),
        Row(26, "mine", ["The", " moon"], None, "", "host"),
        Row(30, "tcmp", ["a", "b", "c"], (4, 9), "", "host"),
    ]
    write_page(tmp_path / "page.html", "Runs", [Section("Rows", samples=[Sample("a run", 7, rows)])])
    text = Page(tmp_path / "page.html").text
    assert "row 3, not injected" in text
    assert "row 26, mine" in text
    assert "row 30, tcmp: TOK1 stands for 4, TOK2 for 9" in text


def test_a_run_that_outlived_its_corpus(copies: Copies, tmp_path: Path) -> None:
    text = (copies.trained / "experiment.yaml").read_text()
    pattern = re.search(r"- (.*/part-\*\.npy)", text)
    assert pattern is not None
    run = copies.make("moved", (pattern[1], "/nowhere/part-*.npy"))
    page = Page(write_text([run], tmp_path / "page.html"))
    assert "cannot be shown: corpus.paths: nothing matches /nowhere" in page.text
    assert "Learning curves" in page.text


def test_a_run_that_was_stopped_before_its_first_step_is_not_accused(copies: Copies) -> None:
    run = copies.make("begun")
    (run / "evidence.jsonl").write_text("")
    for checkpoint in run.glob("step*"):
        shutil.rmtree(checkpoint)
    audit = audit_run(run, progress=False)
    assert (audit.verdict, audit.passed) == (NO_EVIDENCE, False)
    write_json(run / AUDIT, audit.record())
    assert not [said for said in sentences([read_run(run)]) if "differences" in said]


def test_a_failed_audit_is_the_page_s_verdict_and_a_name_cannot_write_html(copies: Copies, tmp_path: Path) -> None:
    run = copies.make("spoilt", ("model_name: tiny-8", "model_name: <script>alert(1)</script>"))
    evidence = (run / "evidence.jsonl").read_text()
    (run / "evidence.jsonl").write_text(evidence.replace('"rows": 12', '"rows": 11', 2))
    write_json(run / AUDIT, audit_run(run, progress=False).record())
    source = write_text([run], tmp_path / "page.html").read_text()
    page = Page(tmp_path / "page.html")
    assert "The audit found differences in spoilt" in page.text
    assert "2 differences" in page.text
    assert "<script>alert" not in source
    assert "&lt;script&gt;" in source


def test_the_command_writes_the_same_page_and_its_figures(
    trained: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(trained), "--out", str(tmp_path / "page.html"), "--figures", str(tmp_path / "f")])
    assert ended.value.code == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == tmp_path / "page.html"
    check_output(printed[0], PAGE, "--out")  # the same command may replace it
    assert printed[0].read_bytes() == page.read_bytes()
    assert all(path.stat().st_size for path in printed)


@pytest.mark.parametrize(
    "arguments", [["RUN", "--out", "FOLDER"], ["FOLDER", "--out", "page.html"], ["RUN", "RUN", "--out", "x"]]
)
def test_wrong_usage_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    places = {"RUN": str(trained), "FOLDER": str(tmp_path)}
    with pytest.raises(SystemExit) as ended:
        main(["report", *(places.get(argument, argument) for argument in arguments)])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written() -> None:
    with pytest.raises(UserError, match="cannot write /proc/"):
        write_page(Path("/proc/page.html"), "Page", [])
