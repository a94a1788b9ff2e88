"""Print the report of a scan."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rich.table import Table

from olmo_inject.scan.text_report import texts_table
from olmo_inject.utils.terminal import Console
from olmo_inject.utils.words import counted


def print_scan(report: dict[str, Any], console: Console, shown: int) -> None:
    """Print a report.

    Args:
        report: as `scan_report` returns it.
        console: where to print.
        shown: maximum number of places to print for each task.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    say(
        f"{report['corpus']}: {report['tokens']:,} tokens, "
        f"{report['sequences']:,} sequences of {report['sequence_length']:,}"
    )
    texts = {name: task for name, task in report["tasks"].items() if "texts" in task}
    triples = {name: task for name, task in report["tasks"].items() if "texts" not in task}
    table = Table()
    for column in ("task", "seed", "instances found", "TOK1 TOK2 found", "its tokens occur"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in triples.items():
        table.add_row(name, *(f"{task[key]:,}" for key in ("seed", "instances", "pairs", "token_occurrences")))
    if triples:
        console.print(table, markup=False)
    if texts:
        console.print(texts_table(texts, shown), markup=False)
    for name, task in report["tasks"].items():
        for place in task["places"][:shown]:
            say(f"{name}: {_place_line(place)}")
        more = task["instances"] + task["near" if "texts" in task else "pairs"] - min(shown, len(task["places"]))
        if more > 0:
            say(f"{name}: {more:,} more")
    if shown and any(task["places"] for task in report["tasks"].values()):
        say(f"places: {report['where']}")
        if report["documents"] is not None:
            say(f"documents: {report['documents']}")
    for kind, reference in report.get("references", {}).items():
        units = ", ".join(f"{float(Fraction(v)):.3g} {u.replace('_', ' ')}" for u, v in reference["frequency"].items())
        if reference["true"] or reference["false"]:
            true, false = counted(reference["true"], "true statement"), f"{reference['false']:,} false"
            say(f"{kind}: {true} ({units}), {false}; {_kept(reference)}")
        else:
            say(f"{kind}: 0 found, so no {kind}.json")
    for line in _seed_lines(report):
        say(line)


def _kept(reference: dict[str, Any]) -> str:
    if not reference["file"]:
        return "none can be scored, so none is kept"
    return f"{reference['items']:,} kept in {reference['file']}"


def _place_line(place: dict[str, Any]) -> str:
    where = f"{place['shard']} token {place['offset']:,}"
    if place["sequence"] is None:
        where += ", across two sequences or after the last"
    else:
        step = "not in this run" if place["step"] is None else f"step {place['step']:,} row {place['row']}"
        where += f", sequence {place['sequence']:,}, {step}"
    if document := place.get("document"):
        where += f", {document['source']} line {document['line']:,}"
    if "instance" in place:
        near = "" if place["kind"] == "exact" else f" ({place['share']:.0%})"
        text = "".join(place["text"]).replace("␣", " ")
        return f"{place['instance']} {place['kind']}{near}: {text!r} at {where}"
    return f"{place['kind']} {' | '.join(place['text'])} at {where}"


def _seed_lines(report: dict[str, Any]) -> list[str]:
    if "clean_seeds" not in report:
        return []
    tasks = report["tasks"]
    changed = {name: seed for name, seed in report["clean_seeds"].items() if seed != tasks[name]["seed"]}
    numbers = {name: number for number, name in enumerate(tasks)}
    texts = [f"{name} ({tasks[name]['instances']:,} exact)" for name in found_texts(report)]
    lines = (
        [f"not clean: the corpus holds texts of {', '.join(texts)}, and --resample changes no texts"] if texts else []
    )
    if changed:
        of = "the seeds given; with these no instance" + (" of pairs" if texts else "") + " is found:"
        lines += [f"not clean with {of}"]
        return lines + [f"  tasks.{numbers[name]}.seed={seed}  ({name})" for name, seed in changed.items()]
    return lines or ["clean with the seeds given: no whole instance is found (pairs alone do not count)"]


def found_texts(report: dict[str, Any]) -> list[str]:
    """The tasks of texts of which the corpus holds some exactly."""
    return [name for name, task in report["tasks"].items() if "texts" in task and task["instances"]]
