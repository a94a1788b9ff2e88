"""Gradients of one MLP against autograd, finite differences and three passes done plainly."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from made import tasks_of
from olmo.config import ModelConfig, TrainConfig
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from olmo_inject.corpus.splice import Splice
from olmo_inject.errors import UserError
from olmo_inject.injection import Plan, PlannedTask, Uniform
from olmo_inject.injection.placement import Placement
from olmo_inject.randomness import key, permutation
from olmo_inject.tasks import Task
from olmo_inject.training import mlp_gradients
from olmo_inject.training.gradients import (
    StepGradients,
    cosines,
    injected_targets,
    step_gradients,
    tokens_per_pass,
    top_neurons,
    with_references,
)
from olmo_inject.training.loss import IGNORED, batch_targets
from olmo_inject.training.mlp_gradients import MlpGradients, by_neuron

VOCAB, ROWS, LENGTH, EOS = 200, 10, 12, 0


def tiny_model(layers: int = 3) -> OlmoForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = OlmoConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            eos_token_id=EOS,
        )
        model = OlmoForCausalLM(config).double().eval()
    for block in model.model.layers:  # transformers' own compute in float32 whatever the model's precision
        block.input_layernorm = torch.nn.LayerNorm(16, elementwise_affine=False)
        block.post_attention_layernorm = torch.nn.LayerNorm(16, elementwise_affine=False)
    model.model.norm = torch.nn.LayerNorm(16, elementwise_affine=False)
    return model


def spliced_batch(
    masked: bool, targets: str = "injected", start: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[Task]]:
    """Random rows; rows 2 and 5 hold instances of the first task, row 7 of the second, in row 5 from token `start`."""
    tasks = tasks_of("less", "plus", n_values=4)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(2, VOCAB, (ROWS, LENGTH), generator=generator)
    label_mask = torch.rand(ROWS, LENGTH, generator=generator) < 0.7
    of_token = torch.full((ROWS, LENGTH), -1)
    for row, task, instance, first in ((2, 0, 3, 0), (5, 0, 9, start), (7, 1, 6, 0)):
        tokens[row, first : first + 3] = torch.from_numpy(tasks[task].instances[instance].astype(np.int64))
        tokens[row, first + 3] = EOS
        label_mask[row, first : first + 4] = True  # as splicing does
        of_token[row, slice(first, first + 4) if targets == "injected" else first + 2] = task
    batch = {"input_ids": tokens}
    if masked:
        batch |= {"instance_mask": torch.arange(ROWS) != 4, "label_mask": label_mask}
    return batch, of_token[:, 1:], tasks


def plain_gradient(model: OlmoForCausalLM, layer: int, loss: torch.Tensor) -> torch.Tensor:
    """By a backward pass through everything."""
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    loss.backward()
    mlp = model.model.layers[layer].mlp
    grads = [part.weight.grad for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    assert all(grad is not None for grad in grads)
    return by_neuron(grads)  # pyright: ignore[reportArgumentType]


def plain_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of every target of a batch, zero where masked, [n, T - 1]."""
    model.requires_grad_(True)
    targets = batch_targets(batch)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view(targets.shape)


@pytest.mark.parametrize(
    ("layer", "targets", "masked", "start"),
    [(0, "injected", False, 0), (0, "label", True, 0), (2, "injected", True, 0), (1, "injected", True, 5)],
)
def test_the_split_equals_three_passes_over_the_whole_batch(layer: int, targets: str, masked: bool, start: int) -> None:
    batch, of_target, tasks = spliced_batch(masked, targets, start)
    model = tiny_model()
    mlp = MlpGradients(model, layer, tokens_per_pass=3 * LENGTH)
    found = step_gradients(mlp, batch, of_target, ["less", "plus"], tasks)
    count = ROWS * LENGTH
    whole = plain_gradient(model, layer, plain_losses(model, batch).sum() / count)
    torch.testing.assert_close(found.batch, whole, rtol=1e-9, atol=1e-14)
    for number, name in enumerate(("less", "plus")):
        part = plain_gradient(model, layer, (plain_losses(model, batch) * (of_target == number)).sum() / count)
        torch.testing.assert_close(found.injected[name], part, rtol=1e-9, atol=1e-14)
        assert part.norm() > 0
    rest = plain_gradient(model, layer, (plain_losses(model, batch) * (of_target < 0)).sum() / count)
    torch.testing.assert_close(found.rest, rest, rtol=1e-9, atol=1e-14)


SHAPE = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"max_position_embeddings": LENGTH, "initializer_range": 0.2}
GATED = ("gate_proj.weight", "up_proj.weight"), "down_proj.weight"
PLAIN = ("dense_h_to_4h.weight", "dense_h_to_4h.bias"), "dense_4h_to_h.weight"
FAMILIES: dict[str, tuple[Any, tuple[tuple[str, ...], str]]] = {
    "olmo2": (Olmo2Config(**SHAPE, intermediate_size=24), GATED),
    "olmo3": (Olmo3Config(**SHAPE, intermediate_size=24, sliding_window=8), GATED),
    "llama": (LlamaConfig(**SHAPE, intermediate_size=16, num_key_value_heads=1), GATED),  # as many neurons as width
    "qwen3": (
        Qwen3Config(**SHAPE, intermediate_size=24, head_dim=8, num_key_value_heads=2, tie_word_embeddings=True),
        GATED,
    ),
    "gpt_neox": (GPTNeoXConfig(**SHAPE, intermediate_size=24), PLAIN),
    "phi3": (
        Phi3Config(**SHAPE, intermediate_size=24, pad_token_id=0, eos_token_id=0),
        (("gate_up_proj.weight",), "down_proj.weight"),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_neurons_have_the_gradient_of_a_pass_through_everything(family: str) -> None:
    """Neuron n alone: its row (rows, where matrices are joined) and bias on the way in, its column on the way out."""
    config, (into, out) = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
    batch, _, _ = spliced_batch(masked=True)
    found = MlpGradients(model, 1, tokens_per_pass=3 * LENGTH).summed(batch["input_ids"], batch_targets(batch))
    model.requires_grad_(True)
    plain_losses(model, batch).sum().backward()
    [mlp] = [module for name, module in model.named_modules() if name.endswith("layers.1.mlp")]
    grads = {name: parameter.grad for name, parameter in mlp.named_parameters()}
    assert found.shape[0] == config.intermediate_size
    for n in (0, 7, config.intermediate_size - 1):
        rows = [part[n] for name in into for part in grads[name].chunk(2 if name.startswith("gate_up") else 1)]
        wanted = torch.cat([*(row.reshape(-1) for row in rows), grads[out][:, n]])
        torch.testing.assert_close(found[n], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=VOCAB, n_layer=1, n_head=2, n_embd=16, n_positions=LENGTH, eos_token_id=EOS),
        Qwen3MoeConfig(
            **SHAPE, intermediate_size=24, head_dim=8, num_key_value_heads=2, num_experts=4, moe_intermediate_size=8
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_an_mlp_of_other_parts_is_refused(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match=r"cannot tell the neurons of its (GPT2MLP|Qwen3MoeSparseMoeBlock)"):
        MlpGradients(model, 0, LENGTH)


def test_the_reference_is_the_mean_label_loss_of_all_instances() -> None:
    batch, of_target, tasks = spliced_batch(masked=False)
    model = tiny_model()
    found = step_gradients(MlpGradients(model, 1, 5 * LENGTH), batch, of_target, ["less", "plus"], tasks)
    for task in tasks:
        model.requires_grad_(True)
        instances = torch.from_numpy(task.triples.astype(np.int64))
        loss = functional.cross_entropy(model(input_ids=instances[:, :2]).logits[:, 1], instances[:, 2])
        expected = plain_gradient(model, 1, loss)
        torch.testing.assert_close(found.reference[task.name], expected, rtol=1e-9, atol=1e-14)


def test_the_other_references_are_of_permuted_labels_and_of_the_labels_alone() -> None:
    batch, of_target, tasks = spliced_batch(masked=False)
    model = tiny_model()
    found = step_gradients(MlpGradients(model, 1, 5 * LENGTH, z_loss=0.1), batch, of_target, ["less", "plus"], tasks)
    for task in tasks:
        instances = torch.from_numpy(task.triples.astype(np.int64))
        model.requires_grad_(True)
        logits = model(input_ids=instances[:, :2]).logits[:, 1]
        labels = torch.from_numpy(task.label_tokens.astype(np.int64))
        own = torch.searchsorted(labels, instances[:, 2].contiguous())
        among = plain_gradient(model, 1, functional.cross_entropy(logits[:, labels], own))
        torch.testing.assert_close(found.among[task.name], among, rtol=1e-9, atol=1e-14)
        order = permutation(key("gradient null", task.name, task.config.seed), len(instances))
        assert (instances[order, 2] != instances[:, 2]).any()
        logits = model(input_ids=instances[:, :2]).logits[:, 1]
        z_loss = 0.1 * logits.logsumexp(-1).square().mean()
        null = plain_gradient(model, 1, functional.cross_entropy(logits, instances[order, 2]) + z_loss)
        torch.testing.assert_close(found.permuted[task.name], null, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradient_agrees_with_finite_differences(z_loss: float) -> None:
    batch, _, _ = spliced_batch(masked=False)
    model, targets, step = tiny_model(), batch_targets(batch), 1e-5
    gradient = MlpGradients(model, 1, 4 * LENGTH, z_loss).summed(batch["input_ids"], targets)
    mlp = model.model.layers[1].mlp

    def loss() -> float:
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
        cross_entropy = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return (cross_entropy + z_loss * logits.logsumexp(-1).square().sum()).item()

    width = model.config.hidden_size
    with torch.no_grad():
        for weight, neuron, place, column in (
            (mlp.gate_proj.weight, 3, (3, 5), 5),
            (mlp.up_proj.weight, 7, (7, 0), width),
            (mlp.down_proj.weight, 11, (2, 11), 2 * width + 2),
        ):
            weight[place] += step
            above = loss()
            weight[place] -= 2 * step
            below = loss()
            weight[place] += step
            assert gradient[neuron, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_tokens_per_pass_change_nothing_and_bound_what_a_pass_sees() -> None:
    batch, _, _ = spliced_batch(masked=True)
    model, seen = tiny_model(), []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    targets = batch_targets(batch)
    whole = MlpGradients(model, 0, ROWS * LENGTH).summed(batch["input_ids"], targets)
    assert seen == [(ROWS - 1, LENGTH - 1)]  # the masked row is left out, and so is the last token
    seen.clear()
    parts = MlpGradients(model, 0, 2 * LENGTH).summed(batch["input_ids"], targets)
    assert seen == [(2, LENGTH - 1)] * 4 + [(1, LENGTH - 1)]
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-14)
    seen.clear()
    MlpGradients(model, 0, 1).summed(batch["input_ids"], targets)
    assert seen == [(1, LENGTH - 1)] * (ROWS - 1)  # a pass has at least a row


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_logits_of_a_part_of_the_targets_at_a_time_change_nothing(
    z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, _, _ = spliced_batch(masked=True)
    model, seen = tiny_model(), []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(tuple(logits.shape)))
    targets = batch_targets(batch)
    whole = MlpGradients(model, 0, ROWS * LENGTH, z_loss).summed(batch["input_ids"], targets)
    counted = int((targets != IGNORED).sum())
    assert seen == [(counted, VOCAB)]  # masked targets have none
    seen.clear()
    monkeypatch.setattr(mlp_gradients, "LOGITS_IN_A_PASS", 7 * VOCAB + 1)
    parts = MlpGradients(model, 0, ROWS * LENGTH, z_loss).summed(batch["input_ids"], targets)
    assert seen == [(7, VOCAB)] * (counted // 7) + [(counted % 7, VOCAB)] * (counted % 7 > 0)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-14)


def test_half_precision_agrees_to_its_digits() -> None:
    batch, _, _ = spliced_batch(masked=False)
    model = tiny_model().float()
    full, half = (
        MlpGradients(model, 1, ROWS * LENGTH, precision=precision).summed(batch["input_ids"], batch_targets(batch))
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert 1e-5 < (half - full).norm() / full.norm() < 0.05


def test_a_pass_is_the_runs_micro_batch_by_default() -> None:
    train = TrainConfig(model=ModelConfig(max_sequence_length=64), device_train_microbatch_size=3)
    assert tokens_per_pass(train, None, 64) == 3 * 64
    assert tokens_per_pass(train, 5, 64) == 5 * 64


def test_injected_targets_take_three_tokens_and_no_other_weight_a_gradient() -> None:
    batch, of_target, tasks = spliced_batch(masked=False)
    model, seen = tiny_model(), []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    step_gradients(MlpGradients(model, 0, ROWS * LENGTH), batch, of_target, ["less", "plus"], tasks)
    assert seen == [(2, 3), (1, 3), *[(16, 2)] * 6, (ROWS, LENGTH - 1)]  # two tasks of three references
    wanting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wanting == {f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shares_of_the_batch_add_up() -> None:
    batch, of_target, tasks = spliced_batch(masked=True)
    mlp = MlpGradients(tiny_model(), 1, 4 * LENGTH)
    whole = step_gradients(mlp, batch, of_target, ["less", "plus"], tasks)
    shares = [
        step_gradients(
            mlp,
            {key: value[rank::2] for key, value in batch.items()},
            of_target[rank::2],
            ["less", "plus"],
            tasks,
            share=(rank, 2),
        )
        for rank in (0, 1)
    ]
    for ours, first, second in zip(whole.parts(), *(share.parts() for share in shares), strict=True):
        torch.testing.assert_close(ours[2], first[2] + second[2], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("per_row", [1, 2])
@pytest.mark.parametrize("place", ["start", "end", "random", "document", "offset"])
@pytest.mark.parametrize("eos", ["none", "before", "after", "both"])
def test_injected_targets_are_where_the_instances_stand(place: str, eos: str, per_row: int) -> None:
    tasks = tasks_of("less", "plus", n_values=4)
    placement = Placement(place, offset=1 if place == "offset" else 0, eos=eos, per_row=per_row)
    plan = Plan([PlannedTask(task, Uniform(Fraction(3)), placement=placement) for task in tasks], ROWS, 1)
    free = np.setdiff1d(np.arange(1, VOCAB), np.concatenate([task.tokens for task in tasks]))
    host = np.random.default_rng(3).choice(free, (ROWS, LENGTH))
    host[:, 6] = EOS
    rows, spliced = np.arange(ROWS)[::-1], host.copy()
    splice = Splice(plan, EOS)
    written = Splice(plan, EOS)(spliced, 4, rows)
    spans = splice.into(host.copy(), 4 * ROWS + rows)
    every, labels = (
        injected_targets(spans, torch.from_numpy(spliced), targets).numpy() for targets in ("injected", "label")
    )
    assert ((every >= 0) == written[:, 1:]).all()
    for number, task in enumerate(tasks):
        whole = [tuple(spliced[row, column - 1 : column + 2]) for row, column in np.argwhere(labels == number)]
        assert len(whole) == 3
        assert set(whole) <= set(map(tuple, task.triples.tolist()))


def test_texts_have_no_reference() -> None:
    tasks = tasks_of("less", "plus", n_values=4)
    text = replace(tasks[1], tokens=np.empty(0, np.uint32))
    assert with_references([text, tasks[0]]) == [tasks[0]]
    with pytest.raises(UserError, match=r"a task of pairs.*the tasks here: plus$"):
        with_references([text])


def test_cosines_are_taken_on_the_neurons_of_each_task() -> None:
    a, b = torch.zeros(5, 3), torch.zeros(5, 3)
    a[0], a[1] = torch.tensor([3.0, 0, 0]), torch.tensor([0, 2.0, 0])
    b[3], b[4] = torch.tensor([0, 0, 5.0]), torch.tensor([4.0, 0, 0])
    batch = a + 2 * b + torch.full((5, 3), 0.0)
    step = StepGradients(batch, {"a": a}, {"a": a, "b": b}, {"a": b, "b": a}, {"a": a, "b": torch.zeros(5, 3)})
    other = {(one.task, one.kind, one.of): (one.null, one.among) for one in cosines(step, 2)}
    assert other["a", "injected", "a"] == (None, pytest.approx(1))  # on the neurons of b, and on its own
    assert other["b", "rest", ""] == (None, None)
    assert other["a", "rest", ""] == (pytest.approx(1), None)
    found = {(one.task, one.kind, one.of): one.cosine for one in cosines(step, 2)}
    assert top_neurons(a, 2).tolist() == [0, 1]
    assert top_neurons(b, 2).tolist() == [3, 4]
    assert found["a", "batch", ""] == pytest.approx(1)  # b is on other neurons
    assert found["b", "rest", ""] == pytest.approx(1)
    assert found["a", "rest", ""] is None  # nothing is there
    assert found["b", "injected", "a"] is None
    assert found["a", "reference", "a"] == pytest.approx(1)
    with pytest.raises(UserError, match=r"1\.\.5"):
        cosines(step, 6)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer 3 is not in 0\.\.2"):
        MlpGradients(tiny_model(), 3, 1)
