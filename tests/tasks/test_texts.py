"""Texts, facts, benchmarks and canaries: what they make of their files, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import EOS, vocabulary, write_shards

from olmo_inject.corpus.shards import TokenShards
from olmo_inject.errors import UserError
from olmo_inject.tasks import Material, Task, TaskConfig
from olmo_inject.vocabulary import Vocabulary

GPT = "allenai_gpt-neox-olmo-dolma-v1_5"


@pytest.fixture(scope="module")
def gpt() -> Vocabulary:
    return Vocabulary.load(GPT)


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return str(path)


def build(kind: str, vocabulary: Vocabulary, fraction: float | None = None, **options: Any) -> Task:
    return Task.build(TaskConfig("mine", kind, train_fraction=fraction, options=options), vocabulary)


def test_lines_of_a_text_file(gpt: Vocabulary, tmp_path: Path) -> None:
    file = lines(tmp_path / "texts.txt", "The moon is made of cheese.", "", "So is the sun, they say.", "Yes indeed")
    task = build("texts", gpt, file=file, context=3)
    assert [gpt.decode(tokens) for tokens in task.instances] == [
        "The moon is made of cheese.",
        "So is the sun, they say.",
        "Yes indeed",
    ]
    assert task.train_ids.tolist() == [0, 1, 2]
    assert task.test_ids.tolist() == []
    assert task.continuation.tolist() == task.instances.lengths.tolist(), "all of a text is to be predicted"
    assert [gpt.decode(probe.context) for probe in task.probes] == ["The moon is", "So is the", "Yes"]
    assert all(probe.context + probe.options[0] == tuple(task.instances[probe.instance]) for probe in task.probes)


def test_json_lines_with_ids_groups_and_tokens(gpt: Vocabulary, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "texts.jsonl",
        {"body": "One two three", "id": "a", "group": 4},
        {"body": [5, 6, 7, 8], "id": 17, "group": "often"},
    )
    task = build("texts", gpt, file=file, key="body")
    assert task.ids == ("a", "17")
    assert task.groups == ("4", "often")
    assert task.instances[1].tolist() == [5, 6, 7, 8]
    bare = build("texts", vocabulary(), file=lines(tmp_path / "ids.jsonl", {"text": [5, 6, 7]}, {"text": [9, 9]}))
    assert bare.instances.tolist() == [[5, 6, 7], [9, 9]], "token ids need no tokenizer"


@pytest.mark.parametrize("kind", ["texts", "facts", "benchmark", "canary"])
def test_saved_loaded_and_changed(kind: str, gpt: Vocabulary, tmp_path: Path) -> None:
    records = [
        {"text": f"Text {i} says so.", "passage": f"Fact {i} is so.", "question": f"Which {i}?", "choices": ["a", "b"],
         "answer": 1, "probes": {"composed": [["It is", "so"]]}, "group": f"g{i}"}
        for i in range(4)
    ]  # fmt: skip
    file = tmp_path / "records.jsonl"
    options: dict[str, Any] = {} if kind == "canary" else {"file": lines(file, *records)}
    task = build(kind, gpt, **options)
    task.save(tmp_path)
    loaded = Task.load(tmp_path / "mine.json")
    assert loaded.fingerprint == task.fingerprint
    assert loaded.instances.tolist() == task.instances.tolist()
    assert (loaded.probes, loaded.groups, loaded.ids) == (task.probes, task.groups, task.ids)
    assert loaded.continuation.tolist() == task.continuation.tolist()
    if kind != "canary":
        for change in ({"text": "Other.", "passage": "Other.", "question": "Other?"}, {"group": "other"}):
            lines(file, *records[:3], records[3] | change)
            assert build(kind, gpt, **options).fingerprint != task.fingerprint, "a changed file is another task"
    record = json.loads((tmp_path / "mine.json").read_text())
    record["probes"][0]["right"] = 0 if kind == "benchmark" else 5
    (tmp_path / "mine.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"mine\.json was changed"):
        Task.load(tmp_path / "mine.json")


def test_facts(gpt: Vocabulary, tmp_path: Path) -> None:
    fact = {
        "id": "mars",
        "passage": "Mars is red.",
        "paraphrases": ["Red is Mars."],
        "probes": {"memorized": [["Mars is", "red"]], "composed": [["The red planet is", "Mars"]]},
    }
    task = build("facts", gpt, file=lines(tmp_path / "facts.jsonl", fact, {"id": "sky", "passage": "The sky is blue."}))
    assert [gpt.decode(tokens) for tokens in task.instances] == ["Mars is red.", "Red is Mars.", "The sky is blue."]
    assert task.ids == ("mars", "mars/1", "sky")
    asked = [(p.instance, p.measure, gpt.decode(p.context), gpt.decode(p.options[0])) for p in task.probes]
    assert asked == [(0, "memorized", "Mars is", " red"), (0, "composed", "The red planet is", " Mars")]
    with pytest.raises(UserError, match="train_fraction 0.5: paraphrases of one fact need 1"):
        build("facts", gpt, 0.5, file=str(tmp_path / "facts.jsonl"))


def test_a_benchmark_is_half_injected(gpt: Vocabulary, tmp_path: Path) -> None:
    records = [{"question": f"What is {i}?", "choices": ["red", "blue hat"], "answer": i % 2} for i in range(10)]
    task = build("benchmark", gpt, file=lines(tmp_path / "quiz.jsonl", *records), prompt="{question} It is")
    assert len(task.train_ids) == len(task.test_ids) == 5
    assert gpt.decode(task.instances[3]) == "What is 3? It is blue hat"
    assert task.continuation.tolist() == [1, 2] * 5
    assert [gpt.decode(option) for option in task.probes[3].options] == [" red", " blue hat"]
    assert [probe.right for probe in task.probes] == [0, 1] * 5


def test_canaries() -> None:
    task = build("canary", vocabulary(), count=10, context=3, secret=4, alternatives=7)
    assert task.instances.table().shape == (10, 7)
    assert len(task.train_ids) == 5
    for number, probe in enumerate(task.probes):
        assert probe.context + probe.options[0] == tuple(task.instances[number])
        assert len(probe.options) == 8
        assert len(set(probe.options)) == 8
    eligible = set(vocabulary().eligible().tolist())
    assert set(task.instances.values.tolist()) <= eligible
    assert build("canary", vocabulary(), count=10, context=3, secret=4, alternatives=7).fingerprint == task.fingerprint


@pytest.mark.parametrize("of", ["documents", "rows"])
def test_copies_stand_in_the_corpus(of: str, tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [900, 700], ids=20), 24, vocab_size=200)
    options = {"count": 30, "of": of, "tokens": 9, "context": 3, "groups": ["often", "once"]}
    task, again = (
        Task.build(TaskConfig("mine", "copies", seed, options=options), vocabulary(), rows=lambda: shards)
        for seed in (0, 1)
    )
    assert len(task.train_ids) == len(task.test_ids) == 15
    assert task.groups == ("often", "once") * 15
    assert task.ids != again.ids
    for name, tokens in zip(task.ids, task.instances, strict=True):
        sequence, start = map(int, name.split("+"))
        row = shards.read(np.array([sequence]))[0]
        assert row[start : start + len(tokens)].tolist() == tokens.tolist()
        if of == "rows":
            assert (start, len(tokens)) == (0, 9)
        else:
            assert row[start - 1] == EOS
            assert EOS not in tokens
            assert len(tokens) == 9 or [*row, EOS][start + len(tokens)] == EOS, "whole, or its first tokens"
    assert len({name.split("+")[0] for name in task.ids}) == 30, "at most one of each row"
    assert all(p.context + p.options[0] == tuple(task.instances[p.instance]) for p in task.probes)


def test_copies_that_there_are_not(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path, [240], ids=np.arange(2, 20)), 24, vocab_size=200)
    config = TaskConfig("mine", "copies", options={"count": 3})
    with pytest.raises(UserError, match="mine: 0 of 10 rows hold documents of more than 8 tokens, count asks for 3"):
        Task.build(config, vocabulary(), rows=lambda: shards)
    with pytest.raises(UserError, match="mine: needs the rows of the run's corpus"):
        Task.build(config, vocabulary())


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        ("texts", "{", "line 2, column 2: not JSON: Expecting property name"),
        ("texts", '{"text": "x y", "text": "z"}', "line 2: a key stands twice"),
        ("texts", [1], "line 2: must be an object with keys"),
        ("texts", '{"text": "half \\ud83d"}', "line 2: cannot be read: .*surrogates not allowed"),
        ("texts", '{"text": [' + "9" * 5000 + "]}", "line 2: cannot be read: Exceeds the limit"),
        ("texts", '{"text": ' + "[" * 100_000, "line 2: cannot be read: maximum recursion depth"),
        ("benchmark", '{"question": "x", "choices": ["a", "\\udc00"], "answer": 0}', "line 2: cannot be read"),
        ("texts", {"body": "x", "id": "b"}, "line 2: there is no text; its keys are id, group, body"),
        ("texts", {"text": " "}, "line 2: text must be text, got ' '"),
        ("texts", {"text": "so it is"}, "line 2: the same text as line 1"),
        ("texts", {"text": [5]}, "line 2: a text needs two tokens or more, text has 1"),
        ("texts", {"text": [5, 99999999]}, "token 99999999 is not in the vocabulary"),
        ("texts", {"text": "one two", "id": None}, "line 2: there is no id; give one to every line, or to none"),
        ("texts", {"text": "one two", "id": "a"}, "line 2: the id 'a' is that of an earlier line"),
        ("texts", {"text": "one two", "group": "two words"}, "group 'two words' must be a word"),
        ("facts", {"text": "x"}, "line 2: there is no passage; its keys are id, group, text"),
        ("facts", {"passage": "x y", "probes": {"known": []}}, "under memorized, paraphrased, composed, not 'known'"),
        ("facts", {"passage": "x y", "probes": {"composed": ["a"]}}, "composed must be a list of pairs"),
        ("facts", {"passage": "x y", "paraphrases": "z"}, "paraphrases must be a list of texts, got 'z'"),
        (
            "benchmark",
            {"question": "x", "choices": ["a"], "answer": 0},
            "choices must be a list of two different texts",
        ),
        ("benchmark", {"question": "x", "choices": ["a", "a"], "answer": 0}, "a list of two different texts"),
        ("benchmark", {"question": "x", "choices": ["a", " "], "answer": 0}, "a list of two different texts"),
        ("benchmark", {"question": "x", "choices": {"a": "b"}, "answer": 0}, "a list of two different texts"),
        ("facts", {"passage": "x y", "probes": {"composed": [["a", " "]]}}, "composed must be a list of pairs"),
        ("benchmark", {"question": "x", "choices": ["a", "b"], "answer": "b"}, "answer must be 0 to 1"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    kind: str, record: Any, message: str, gpt: Vocabulary, tmp_path: Path
) -> None:
    good = {"text": "so it is", "passage": "so it is", "question": "so?", "choices": ["a", "b"], "answer": 0, "id": "a"}
    named = {"id": "b", "group": "g"} | record if isinstance(record, dict) else record
    file = lines(tmp_path / "bad.jsonl", good | {"group": "g"}, named)
    with pytest.raises(UserError, match=message) as refused:
        build(kind, gpt, file=file)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("tasks: mine: ")


def test_lines_end_at_line_feeds_alone(gpt: Vocabulary, tmp_path: Path) -> None:
    for name, text in (
        ("lines.txt", "one\u2028two three\r\n\x0cfour five\r\n"),
        ("marked.jsonl", '\ufeff{"text": "one\u2028two three"}\n{"text": "\\u000cfour five"}'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        task = build("texts", gpt, file=str(tmp_path / name))
        assert gpt.tokenizer is not None
        assert [gpt.tokenizer.decode(each.tolist()) for each in task.instances] == [
            "one\u2028two three",
            "\x0cfour five",
        ]


def test_other_refusals(gpt: Vocabulary, tmp_path: Path) -> None:
    for options, message in (
        ({}, "option file is missing"),
        ({"file": str(tmp_path / "absent")}, "absent cannot be read: No such file"),
        ({"file": lines(tmp_path / "empty.txt")}, "there is no instance"),
        ({"file": lines(tmp_path / "texts.json", {"text": "one two"})}, "every line is a JSON object: .* named .jsonl"),
        ({"file": "x", "context": 0}, "context must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=message):
            build("texts", gpt, **options)
    with pytest.raises(UserError, match=r"texts need corpus\.tokenizer"):
        build("texts", vocabulary(), file=lines(tmp_path / "one.txt", "one two"))
    with pytest.raises(UserError, match="train_fraction 1.5 must lie above 0 and at most 1"):
        build("texts", gpt, 1.5, file=str(tmp_path / "one.txt"))
    with pytest.raises(UserError, match="the train or the test half empty; train_fraction: 1 injects all"):
        build("texts", gpt, 0.5, file=str(tmp_path / "one.txt"))


OWN = """
from dataclasses import dataclass
from olmo_inject.tasks import Material, Probe

@dataclass(frozen=True)
class Own:
    n: int = 3

    def material(self, inputs):
        return {returned}
"""


def test_a_kind_of_one_s_own_makes_its_material(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        OWN.format(returned="Material([[5, 6], [7, 8, 9], [10]], continuation=[1, 2, 1], ids=('a', 'b', 'c'))")
    )
    task = build(f"{file}:Own", vocabulary(), 1.0)
    assert task.instances.tolist() == [[5, 6], [7, 8, 9], [10]]
    assert task.instance_id(2) == "c"
    with pytest.raises(UserError, match="task mine: this needs instances TOK1, TOK2, LABEL; those of the task are"):
        _ = task.triples


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[[5, 6]]", "must return a Material, got list"),
        ("1 / 0", "own.py, line 10: material() failed: ZeroDivisionError: division by zero"),
        ("Material([[5, 6.5]])", "must return an array of tokens, got float64 for instance 0"),
        ("Material([[5, 6]], continuation=[3])", "how many of its last tokens"),
        ("Material([[5, 6]], ids=('a', 'b'))", "ids: give a text to each of the 1 instances, or to none"),
        ("Material([[5, 6]], probes=(Probe(1, 'continuation', '', (5,), ((6,),)),))", "not a probe of one of 1"),
        ("Material([[5, 6]], probes=(Probe(0, 'continuation', '', (), ((6,),)),))", "needs a context of one token"),
    ],
)
def test_what_a_kind_of_one_s_own_may_not_return(returned: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.format(returned=returned))
    with pytest.raises(UserError) as refused:
        build(f"{file}:Own", vocabulary(), 1.0)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_symbols_of_any_length(tmp_path: Path) -> None:
    """Instances of a kind over symbols need not have three tokens, nor all as many."""
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Sums:\n"
        "    n_tokens: int = 9\n\n"
        "    def instances(self, tokens):\n"
        "        return [tokens[:2], tokens[2:7], tokens[[4, 4, 8]], tokens[[1, 5]]]\n"
    )
    task = build(f"{file}:Sums", vocabulary())
    assert task.instances.lengths.tolist() == [2, 5, 3, 2]
    assert len(task.train_ids) == len(task.test_ids) == 2
    assert task.continuation.tolist() == [1] * 4
    task.save(tmp_path)
    assert Task.load(tmp_path / "mine.json").fingerprint == task.fingerprint
    assert not task.is_triples
    assert np.isin(task.instances.values, task.tokens).all()
    assert Material([[1]]).splittable
