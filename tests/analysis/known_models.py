"""Models whose weights are written by hand, so that what an analysis must find in them is known.

Both are real OlmoForCausalLMs of two blocks. A token's embedding has, in known orthonormal directions, what the
task needs of its value, a constant, and a part of its own (noise, of one length for all tokens). All directions sum
to zero and the constant is the largest part, so that the layer norms do little but scale.

At TOK2 the first block's attention, uniform over TOK1 and TOK2, writes half of the sum of both operands' values
beside TOK2's own. The first block's MLP computes the answer from the two with a few known neurons, and the head
reads it. The second block does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from made import vocabulary
from transformers import OlmoConfig, OlmoForCausalLM

from olmo_inject.randomness import key, permutation
from olmo_inject.tasks import Task, TaskConfig

VOCABULARY = 200
WIDTH = 64
NEURONS = 64  # of each MLP
HEAD = 16
CONSTANT = 4.0  # times the length of what a token says of its value
NOISE = 0.3
ANSWER = 20.0  # how far the answer stands out in the logits

Vector = Float[torch.Tensor, " d_model"]


@dataclass(frozen=True)
class KnownModel:
    """A model, the task it solves, and how.

    Attributes:
        model: two blocks; block 0 does everything.
        task: all its instances are solved.
        own: orthonormal directions that hold an operand's value in its embedding, [k, d_model].
        both: directions that hold, at TOK2 after block 0's attention, half of the sum of both operands' `own`.
        neurons: of block 0's MLP, those that compute the answer; all others are zero.
    """

    model: OlmoForCausalLM
    task: Task
    own: Float[torch.Tensor, "k d_model"]
    both: Float[torch.Tensor, "k d_model"]
    neurons: list[int]


def known_comparison(n_values: int = 20, seed: int = 0, width: int = WIDTH) -> KnownModel:
    """Comparison by one direction: `own[0]` holds the value, from -1 to 1 in equal steps.

    Two neurons tell whether the difference is below or above half a step. `own` has that one direction; a
    second one keeps the embeddings at one length and is not part of it.
    """
    task = _task("comparison", n_values, seed)
    directions = _directions(6, seed, width)
    value, rest, both, less, not_less, constant = directions
    coordinate = torch.linspace(-1, 1, n_values)
    step = 2 / (n_values - 1)
    embeddings = coordinate[:, None] * value + (1 - coordinate**2).sqrt()[:, None] * rest
    model = _blank(task, embeddings, constant, directions, seed)
    _gather(model, [value], [both])
    # value(TOK2) - value(TOK1) = 2 value(TOK2) - 2 `both`, since `both` is their mean.
    above = 2 * value - 2 * both - constant * (step / 2 / CONSTANT)
    _neurons(model, [(above, constant, less), (-above, constant, not_less)])
    labels = task.tokens[n_values:].tolist()
    _head(model, {labels[0]: less, labels[1]: not_less}, constant)
    return KnownModel(model, task, value[None], both[None], [0, 1])


def known_addition(n_values: int = 23, modes: Sequence[int] = (3, 7), seed: int = 0, width: int = WIDTH) -> KnownModel:
    """Addition modulo `n_values` by Fourier modes: of each, `own` and `both` have the cosine, then the sine.

    Eight neurons a mode multiply: silu(x) y - silu(-x) y = x y. `n_values` must be prime.
    """
    task = _task("modular_addition", n_values, seed)
    *waving, constant = directions = _directions(6 * len(modes) + 1, seed, width)
    own, both, answer = (waving[2 * i * len(modes) : 2 * (i + 1) * len(modes)] for i in range(3))
    angles = 2 * torch.pi * torch.arange(n_values)[:, None] * torch.tensor(modes) / n_values
    waves = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)  # [value, cosine and sine of each mode]
    model = _blank(task, waves @ torch.stack(own) / len(modes) ** 0.5, constant, directions, seed)
    _gather(model, own, both)
    neurons: list[tuple[Vector, Vector, Vector]] = []
    for mode in range(len(modes)):
        cos, sin = 2 * mode, 2 * mode + 1
        for first, second, to in (
            (cos, cos, answer[cos]),
            (sin, sin, -answer[cos]),
            (sin, cos, answer[sin]),
            (cos, sin, answer[sin]),
        ):
            of_first = 2 * both[first] - own[first]
            neurons += [(of_first, own[second], to), (-of_first, own[second], -to)]
    _neurons(model, neurons)
    rows = waves @ torch.stack(answer)
    _head(model, dict(zip(task.tokens.tolist(), rows, strict=True)), constant)
    return KnownModel(model, task, torch.stack(own), torch.stack(both), list(range(len(neurons))))


def random_model(known: KnownModel, seed: int = 0) -> OlmoForCausalLM:
    """A model of the same shape that knows nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OlmoForCausalLM(known.model.config).eval()


def shuffled(task: Task, seed: int = 0) -> Task:
    """The same tokens, with another value for each: what the known model does not compute."""
    n = task.config.options["n_values"]
    order = permutation(key("shuffled", seed), n)
    tokens = np.concatenate([task.tokens[:n][order], task.tokens[n:]])
    return replace(task, tokens=tokens)


def _task(kind: str, n_values: int, seed: int) -> Task:
    config = TaskConfig("known", kind, seed=seed, options={"n_values": n_values})
    return Task.build(config, vocabulary(VOCABULARY))


def _directions(n: int, seed: int, width: int) -> list[Vector]:
    """Orthonormal directions, all orthogonal to the vector of ones, in a random orientation."""
    random = torch.randn(width, n + 1, generator=torch.Generator().manual_seed(seed))
    random[:, 0] = 1
    return list(torch.linalg.qr(random)[0].T[1:])


def _blank(
    task: Task, values: Float[torch.Tensor, "n d_model"], constant: Vector, directions: list[Vector], seed: int
) -> OlmoForCausalLM:
    """All weights zero but the embeddings: noise and the constant for every token, and values for the task's.

    Noise lies in all directions but `directions`. Heads and the MLP are as narrow as they can be: cheap at any width.
    """
    config = OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=len(constant),
        intermediate_size=NEURONS,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=HEAD,
        max_position_embeddings=16,
        eos_token_id=0,
    )
    model = OlmoForCausalLM(config).eval()
    taken = torch.stack([*directions, torch.ones_like(constant) / len(constant) ** 0.5])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        own = torch.randn(VOCABULARY, len(constant), generator=torch.Generator().manual_seed(seed + 1))
        own -= own @ taken.T @ taken
        embeddings = CONSTANT * constant + NOISE * own / own.norm(dim=1, keepdim=True)
        embeddings[torch.from_numpy(task.tokens[: len(values)].astype(np.int64))] += values
        model.model.embed_tokens.weight.copy_(embeddings)
    return model


def _gather(model: OlmoForCausalLM, own: Sequence[Vector], both: Sequence[Vector]) -> None:
    """Attention of block 0 writes the mean of the operands' `own` into `both`; no query, so it looks at all alike."""
    attention = model.model.layers[0].self_attn
    # What the layer norm divided a task token's embedding by.
    undo = ((1 + CONSTANT**2 + NOISE**2) / len(own[0])) ** 0.5
    with torch.no_grad():
        for number, (read, write) in enumerate(zip(own, both, strict=True)):
            attention.v_proj.weight[number] = read
            attention.o_proj.weight[:, number] = undo * write


def _neurons(model: OlmoForCausalLM, neurons: Sequence[tuple[Vector, Vector, Vector]]) -> None:
    """Neurons of block 0's MLP: what the gate reads, what is let through, and where it is written."""
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        for number, (gate, up, down) in enumerate(neurons):
            mlp.gate_proj.weight[number], mlp.up_proj.weight[number] = gate, up
            mlp.down_proj.weight[:, number] = down


def _head(model: OlmoForCausalLM, rows: dict[int, Vector], constant: Vector) -> None:
    """Each answer's token reads its direction; all others are held down by the constant."""
    with torch.no_grad():
        model.lm_head.weight.copy_(-ANSWER * constant.expand(VOCABULARY, -1))
        for token, row in rows.items():
            model.lm_head.weight[token] = ANSWER * row
