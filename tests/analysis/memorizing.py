"""Models that have learned every pair by heart: random embeddings, a random block, and an MLP fitted to the answers."""

from __future__ import annotations

import numpy as np
import torch
from made import vocabulary
from transformers import OlmoConfig, OlmoForCausalLM

from analysis.methods.activations import recorded, value_tokens
from olmo_inject.tasks import Task, TaskConfig

VOCABULARY = 200
ANSWER = 30.0  # how far the MLP moves the stream; embeddings have a length of about 1


def task_of(kind: str, n_values: int) -> Task:
    """A task of the bare vocabulary."""
    return Task.build(TaskConfig("known", kind, options={"n_values": n_values}), vocabulary(VOCABULARY))


@torch.no_grad()
def memorizing(task: Task, width: int, order: float = 0.0, seed: int = 0) -> OlmoForCausalLM:
    """A model of one block that answers every instance, and that holds no order of the values unless told to.

    Args:
        task: its labels, in turn, are written at equal angles of a circle: opposite each other if there are two.
        width: of the residual stream.
        order: the distance of the first value's embedding from the last's, along a direction of its own.
        seed: of all that is random.
    """
    config = OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * len(task.instances),
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16,
        initializer_range=width**-0.5,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = OlmoForCausalLM(config).eval()
        line, *plane = torch.linalg.qr(torch.randn(width, 3))[0].T
    values = torch.from_numpy(value_tokens(task).astype(np.int64))
    model.model.embed_tokens.weight[values] += order * torch.linspace(-0.5, 0.5, len(values))[:, None] * line
    labels = [token for token in task.tokens.tolist() if token in task.label_tokens]
    angles = 2 * torch.pi * torch.arange(len(labels)) / len(labels)
    places = torch.stack([angles.cos(), angles.sin()], dim=1) @ torch.stack(plane)
    mlp = model.model.layers[0].mlp
    instances = torch.from_numpy(task.triples.astype(np.int64))
    with recorded([mlp.act_fn, mlp.up_proj]) as outputs:
        model.model(instances[:, :2])
    gate, up = (output[:, 1].double() for output in outputs if output is not None)
    answers = places[[labels.index(token) for token in task.labels.tolist()]].double()
    mlp.down_proj.weight.copy_(torch.linalg.lstsq(gate * up, ANSWER * answers).solution.T)
    model.lm_head.weight.zero_()
    model.lm_head.weight[labels] = places
    return model


@torch.no_grad()
def solved(model: OlmoForCausalLM, task: Task) -> float:
    """The share of all instances that the model answers."""
    instances = torch.from_numpy(task.triples.astype(np.int64))
    said = model(instances[:, :2]).logits[:, -1].argmax(-1)
    return float((said == instances[:, 2]).float().mean())
