"""The hand-made models do what they are said to do; analyses are judged by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_models import KnownModel, known_addition, known_comparison, random_model, shuffled

MODELS = {
    "comparison of 20": lambda: known_comparison(),
    "comparison of 50": lambda: known_comparison(50, seed=1),
    "addition modulo 23": lambda: known_addition(),
    "addition modulo 59": lambda: known_addition(59, (1, 10, 21), seed=2),
}


def accuracy(known: KnownModel) -> float:
    instances = torch.from_numpy(known.task.triples.astype(np.int64))
    with torch.no_grad():
        answers = known.model(instances[:, :2]).logits[:, -1].argmax(-1)
    return float((answers == instances[:, 2]).double().mean())


@pytest.mark.parametrize("name", MODELS)
def test_every_instance_is_solved(name: str) -> None:
    assert accuracy(MODELS[name]()) == 1


@pytest.mark.parametrize("name", MODELS)
def test_by_the_known_neurons_and_directions_alone(name: str) -> None:
    known = MODELS[name]()
    weights = known.model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        assert weights.norm(dim=0).nonzero().flatten().tolist() == known.neurons
        weights[:, known.neurons] = 0
    assert accuracy(known) < 0.6
    known = MODELS[name]()
    embeddings = known.model.model.embed_tokens.weight
    torch.testing.assert_close(known.own @ known.own.T, torch.eye(len(known.own)))
    with torch.no_grad():
        embeddings -= embeddings @ known.own.T @ known.own
    assert accuracy(known) < 0.6


def test_controls_know_nothing() -> None:
    known = known_comparison()
    other = shuffled(known.task)
    assert sorted(other.tokens) == sorted(known.task.tokens)
    assert (other.tokens != known.task.tokens).sum() > 10
    assert not np.any(other.tokens[20:] != known.task.tokens[20:])
    assert random_model(known).config == known.model.config
    assert accuracy(KnownModel(random_model(known), known.task, known.own, known.both, [])) < 0.1
