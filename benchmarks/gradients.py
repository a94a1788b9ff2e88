"""A batch's gradient split into a task's part and the rest, against the plain way: `python -m benchmarks.gradients`.

Ours is that of `step_gradients`: one pass for g, and three tokens of the injected rows for g_t, ending at the MLP.
In the plain way g_t and g_nt each take a forward and backward pass of the whole batch: through the whole model, as
`loss.backward()` does, or also ending at the MLP. All run in one process in turns, with equal rows per pass. The memory
of each is measured in a process of its own, as the difference of its peak from what it held before.
"""

from __future__ import annotations

import multiprocessing
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import OlmoConfig, OlmoForCausalLM

from benchmarks.timing import in_turns, own_bytes, paired_ratio, print_table, timed
from olmo_inject.tasks import SPLICED_TOKENS
from olmo_inject.training.loss import IGNORED
from olmo_inject.training.mlp_gradients import MlpGradients, by_neuron

ROUNDS = 3
VOCABULARY = 2048
LAYER = 0


@dataclass(frozen=True)
class Shape:
    """A model and a batch of it, an eighth of whose rows are injected."""

    name: str
    width: int
    layers: int
    length: int
    rows: int
    rows_per_pass: int


SHAPES = (Shape("4M", 64, 8, 128, 16, 8), Shape("20M", 192, 16, 128, 8, 4))


class Case:
    """One shape, ready to be measured."""

    def __init__(self, shape: Shape) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = OlmoConfig(
                vocab_size=VOCABULARY,
                hidden_size=shape.width,
                intermediate_size=4 * shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=8,
                max_position_embeddings=shape.length,
                eos_token_id=0,
            )
            self.model = OlmoForCausalLM(config).eval()
            self.tokens = torch.randint(2, VOCABULARY, (shape.rows, shape.length))
        self.shape = shape
        self.targets = self.tokens[:, 1:]
        self.injected = torch.full_like(self.targets, IGNORED)
        self.injected[::8, : SPLICED_TOKENS - 1] = self.targets[::8, : SPLICED_TOKENS - 1]
        self.others = self.targets.where(self.injected == IGNORED, IGNORED)

    def ours(self) -> tuple[torch.Tensor, torch.Tensor]:
        """g_t and g_nt by causality and subtraction."""
        mlp = MlpGradients(self.model, LAYER, self.shape.rows_per_pass * self.shape.length)
        part = mlp.summed(self.tokens, self.injected)
        return part, mlp.summed(self.tokens, self.targets) - part

    def whole_model(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two passes over everything, `loss.backward()` each."""
        self.model.requires_grad_(True)
        return self._backward(self.injected), self._backward(self.others)

    def same_end(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two passes over the whole batch that end at the MLP."""
        MlpGradients(self.model, LAYER, self.shape.length)  # so that nothing else asks for a gradient
        return self._backward(self.injected), self._backward(self.others)

    def _backward(self, targets: torch.Tensor) -> torch.Tensor:
        self.model.zero_grad(set_to_none=True)
        for rows in torch.arange(len(self.tokens)).split(self.shape.rows_per_pass):
            logits = self.model(input_ids=self.tokens[rows, :-1], use_cache=False).logits
            F.cross_entropy(
                logits.flatten(0, 1), targets[rows].flatten(), ignore_index=IGNORED, reduction="sum"
            ).backward()
        mlp: Any = self.model.model.layers[LAYER].mlp
        grads = [part.weight.grad for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
        return by_neuron([grad for grad in grads if grad is not None])


WAYS = {"ours": Case.ours, "whole model": Case.whole_model, "same end": Case.same_end}


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        case = Case(shape)
        results = {name: way(case) for name, way in WAYS.items()}
        seconds = in_turns({name: partial(timed, partial(way, case)) for name, way in WAYS.items()}, ROUNDS)
        memory = {name: _peak_megabytes(shape, name) for name in WAYS}
        for name in ("whole model", "same end"):
            ours, theirs = torch.cat(results["ours"]), torch.cat(results[name])
            rows.append(
                [
                    f"{shape.name}, {shape.rows} rows of {shape.length}",
                    name,
                    f"{statistics.median(seconds[name]) * 1e3:.0f} ms",
                    f"{statistics.median(seconds['ours']) * 1e3:.0f} ms",
                    f"{1 / paired_ratio(seconds['ours'], seconds[name]):.2f}",
                    f"{memory[name]:.0f} MB",
                    f"{memory['ours']:.0f} MB",
                    f"{memory['ours'] / memory[name]:.2f}",
                    f"{((ours - theirs).norm() / theirs.norm()).item():.0e}",
                ]
            )
    print_table(
        "Splitting a batch's gradient (to reach: half the time of the plain way, no more memory)",
        ["model", "plainly", "time", "ours", "ratio", "memory", "ours", "ratio", "differs by"],
        rows,
    )


def _peak_megabytes(shape: Shape, name: str) -> float:
    """What the peak of one way adds, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_megabytes, (shape, name))


def _added_megabytes(shape: Shape, name: str) -> float:
    torch.set_num_threads(1)
    case = Case(shape)
    case.model(input_ids=case.tokens[:1, :4])  # what the first use of a kernel allocates
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = own_bytes("VmRSS")
    WAYS[name](case)
    return (own_bytes("VmHWM") - before) / 2**20


if __name__ == "__main__":
    main()
