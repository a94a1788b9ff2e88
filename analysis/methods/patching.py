"""Activation patching: which layers' MLPs a task's answer depends on.

Each pair is two instances with different labels, a base and a source. The output of one MLP, at both operands, is
exchanged between the two. The logit difference is the logit of the base's label minus that of the source's. The effect
is how far the base's logit difference falls if the MLP gives its output on the source. The recovery is how far the
source's logit difference rises if the MLP gives its output on the base. `whole` is the effect of exchanging the whole
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from torch import nn
from transformers import PreTrainedModel

from analysis.methods.counterfactuals import Pairs, draw_pairs
from analysis.methods.hooks import changed, outputs, untrained
from analysis.read.checkpoints import StoredModel
from analysis.read.store import Method, Report, Tables
from analysis.stats import mean_intervals
from olmo_inject.tasks import Task
from olmo_inject.training.evaluation.tasks import last_logits
from olmo_inject.training.structure import mlps
from olmo_inject.utils.options import check_options

METHOD = "patching"
VERSION = 3
ROWS_PER_PASS = 256


@dataclass(frozen=True)
class Effects:
    """What exchanging one layer's MLP output does to each pair.

    Attributes:
        effect: fall of the logit difference in the base's run, in logits.
        recovery: rise of the logit difference in the source's run, in logits.
        logprob_drop: fall of the log-probability of the base's label, in nats.
    """

    effect: Float[np.ndarray, " n"]
    recovery: Float[np.ndarray, " n"]
    logprob_drop: Float[np.ndarray, " n"]


def method(pairs: int) -> Method:
    """The analysis of one checkpoint, which writes the table `layers`.

    Columns: task, weights (`trained`, or `untrained` as a control), layer, rank (1: the largest effect), pairs, whole,
    answered (share of bases on which the model prefers its own label to the source's), and effect, recovery and
    logprob_drop, each with `_low` and `_high`, the ends of 95% bootstrap intervals over pairs. The intervals of one
    measure hold for all layers together, so they also hold for the layer with the largest effect.

    Raises:
        UserError: fewer than two pairs.
    """
    check_options(pairs=pairs)

    def compute(model: PreTrainedModel, checkpoint: StoredModel, report: Report) -> Tables:
        tables = []
        for weights, which in (("trained", model), ("untrained", untrained(model))):
            for task in checkpoint.tasks:
                tables.append(layer_table(which, task, pairs).assign(weights=weights))
                report(len(tables) / (2 * len(checkpoint.tasks)))
        return {"layers": pd.concat(tables, ignore_index=True)}

    return Method(METHOD, compute, {"pairs": pairs}, VERSION)


def layer_table(model: PreTrainedModel, task: Task, n_pairs: int) -> pd.DataFrame:
    """One row per layer; see `method` for the columns.

    Args:
        model: in evaluation mode.
        task: whose answers are patched.
        n_pairs: number of pairs.

    Raises:
        UserError: all instances have one label, or the model's MLPs cannot be found.
    """
    drawn = draw_pairs(task, "result", np.arange(len(task.triples)), 2 * n_pairs, "patching")
    chosen = drawn.changed.nonzero().flatten()[:n_pairs]
    pairs = Pairs(
        drawn.base[chosen], drawn.source[chosen], drawn.label[chosen], drawn.changed[chosen], drawn.then[chosen.numpy()]
    )
    before, whole, layers = patch(model, task, pairs)
    of_all = {"pairs": len(chosen), "whole": float(whole.mean()), "answered": float((before > 0).mean())}
    table = pd.DataFrame({"task": task.name, "layer": range(len(layers)), **of_all})
    for name in ("effect", "recovery", "logprob_drop"):
        values = np.stack([getattr(effects, name) for effects in layers])
        for column, ends in zip(
            ("", "_low", "_high"), mean_intervals(values, f"patching {task.name} {name}"), strict=True
        ):
            table[f"{name}{column}"] = ends
    return table.assign(rank=table["effect"].rank(ascending=False, method="first").astype(int))


def patch(
    model: PreTrainedModel, task: Task, pairs: Pairs
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[Effects]]:
    """The logit difference of each base, its fall if the whole input is exchanged, and the effects of each MLP.

    Args:
        model: in evaluation mode.
        task: supplies the label tokens.
        pairs: bases and sources with different labels.

    Returns:
        The logit differences, the falls, and one `Effects` per layer.
    """
    modules, device = mlps(model), next(model.parameters()).device
    label_of = {(a, b): label for a, b, label in task.triples.tolist()}
    labels = [torch.tensor([label_of[a, b] for a, b in side.tolist()]) for side in (pairs.base, pairs.source)]
    inputs = [part.to(device) for part in (pairs.base, pairs.source, *labels)]
    parts = zip(*(part.split(ROWS_PER_PASS) for part in inputs), strict=True)
    together = torch.cat([_patch_rows(model, modules, *part) for part in parts], dim=1)
    before, after, *effects = together.cpu().numpy()  # all of them in one copy from the device
    return before, before - after, [Effects(*effects[i : i + 3]) for i in range(0, len(effects), 3)]


def _patch_rows(
    model: PreTrainedModel,
    modules: list[nn.Module],
    base: Int64[torch.Tensor, "n 2"],
    source: Int64[torch.Tensor, "n 2"],
    own: Int64[torch.Tensor, " n"],
    other: Int64[torch.Tensor, " n"],
) -> Float64[torch.Tensor, "_ n"]:
    """The logit differences of bases and of sources, and the three effects of each module, on the model's device."""
    place = torch.arange(len(base), device=base.device)

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[place, own] - logits[place, other]

    def logprob(logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(-1)[place, own]

    of_base, base_out = outputs(model, modules, base)
    of_source, source_out = outputs(model, modules, source)
    before, after, known = difference(of_base), difference(of_source), logprob(of_base)
    found = [before, after]
    with torch.no_grad():
        for module, from_base, from_source in zip(modules, base_out, source_out, strict=True):
            with changed(module, lambda _, new=from_source: new):
                lost = last_logits(model, base)
            with changed(module, lambda _, new=from_base: new):
                won = last_logits(model, source)
            found += [before - difference(lost), difference(won) - after, known - logprob(lost)]
    return torch.stack(found).double()
