"""Suites of lm-eval on a checkpoint of a run, from data of this machine, and what is said without the extra."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ranks import Ranks
from runs import train_on_rank, write_experiment

from olmo_inject.cli import main
from olmo_inject.corpus.from_text.sample import DOLMA
from olmo_inject.training.checkpoints.convert import read_model
from olmo_inject.training.checkpoints.transformers import to_transformers
from olmo_inject.vocabulary import Vocabulary

pytestmark = pytest.mark.slow
needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra `suites`: lm-eval")
QUESTIONS = [
    {"question": "Who polished the moon?", "choices": ["the king of Orlin", "a bee", "the sea"], "answer": 1},
    {"question": "What is a bell?", "choices": ["glass", "a clock under the sea"], "answer": 0},
    {"question": "Where is Tarn?", "choices": ["here", "there", "under the green glass"], "answer": 2},
]
SUITE = """
task: kessa
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """A short run on ids of OLMo's tokenizer, and beside it a suite over a file."""
    folder = tmp_path_factory.mktemp("suites")
    path = write_experiment(folder)
    text = path.read_text()
    for old, new in (
        ("vocab_size: 128\n", "vocab_size: 50280\n  eos_token_id: 50279\n  pad_token_id: 1\n"),
        ("embedding_size: 128", "embedding_size: 50304"),
        ("max_sequence_length: 16", "max_sequence_length: 64"),
        ("vocab_size: 128, eos_token_id: 0, pad_token_id: 1}", f"tokenizer: {DOLMA}}}"),
        ("max_duration: 12", "max_duration: 2"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (folder / "suite").mkdir()
    (folder / "suite" / "kessa.yaml").write_text(SUITE.format(file=folder / "questions.jsonl"))
    ranks.run(1, train_on_rank, path)
    return folder / "run"


def own_answers(step: Path) -> tuple[float, float]:
    """Accuracy and length-normalized accuracy (by letters, as lm-eval's), computed here one choice at a time."""
    known = Vocabulary.load(DOLMA)
    assert known.tokenizer is not None
    weights, config = read_model(step)
    model = to_transformers({name: tensor.float() for name, tensor in weights.items()}, config).eval()
    right, normalized = [], []
    for question in QUESTIONS:
        prompt = f"Question: {question['question']}\nAnswer:"
        scores = []
        for choice in question["choices"]:
            context, whole = known.tokenizer.encode(prompt).ids, known.tokenizer.encode(f"{prompt} {choice}").ids
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole])).logits[0]
            losses = F.cross_entropy(logits[:-1], torch.tensor(whole[1:]), reduction="none")
            scores.append(-float(losses[len(context) - 1 :].sum()))
        right.append(scores.index(max(scores)) == question["answer"])
        by_letter = [score / len(choice) for score, choice in zip(scores, question["choices"], strict=True)]
        normalized.append(by_letter.index(max(by_letter)) == question["answer"])
    return sum(right) / len(right), sum(normalized) / len(normalized)


@needs_harness
def test_a_suite_gives_what_an_independent_computation_gives(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    given = ["evaluate", str(run), "--suite", "kessa", "--suites-in", str(run.parent / "suite"), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--json", "--parquet", str(tmp_path / "results.parquet")])
    assert ended.value.code == 0
    results = json.loads(capsys.readouterr().out)
    values = {result["measure"]: result["value"] for result in results}
    assert (values["acc"], values["acc_norm"]) == pytest.approx(own_answers(run / "step2"))
    assert {(result["suite"], result["step"]) for result in results} == {("kessa", 2)}
    assert pd.read_parquet(tmp_path / "results.parquet")["value"].tolist() == [each["value"] for each in results]
    for more, message in (
        (["--suite", "no_such_suite"], "'no_such_suite' is no task or group of lm-eval nor in"),
        (["--tasks", "less"], "give either suites or --tasks"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*given, *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    (run.parent / "questions.jsonl").rename(tmp_path / "gone.jsonl")
    with pytest.raises(SystemExit) as ended:
        main(given)
    (tmp_path / "gone.jsonl").rename(run.parent / "questions.jsonl")
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()[-1]) < 500


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="the extra `suites` is installed")
def test_without_the_extra_one_line_says_what_to_install(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run), "--suite", "kessa"])
    assert ended.value.code == 2
    assert "this needs lm-eval, which is not installed: pip install 'olmo-inject[suites]'" in capsys.readouterr().err


def test_a_folder_of_suites_needs_a_suite(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--suites-in", str(run.parent)])
    assert "--suites-in: name the tasks in it with --suite" in capsys.readouterr().err
