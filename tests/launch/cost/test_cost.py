"""Costs against closed forms, against ai2-olmo's own counts, and against what a step really holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from olmo.model import OLMo
from rich.console import Console
from rich.table import Table

from launch.cell_list import cell_costs
from launch.cost.accelerators import Accelerator, find_accelerator, read_accelerators
from launch.cost.cost import corpus_bytes, count_checkpoints, estimate, flops_per_token
from launch.cost.memory import activation_bytes, count_parameters, estimate_memory
from launch.cost.report import cost_table, hours, in_bytes, money, room_table, run_table, short
from launch.sweep import load_sweep
from olmo_inject.config import CorpusConfig, Experiment, configs_folder, load_experiment
from olmo_inject.config.olmo_settings import ActivationCheckpointingStrategy
from olmo_inject.errors import UserError
from olmo_inject.training.checkpoints.record import write_record
from olmo_inject.training.loss import LOGITS_AT_ONCE
from olmo_inject.training.olmo_config import model_config

SIZES = ("4M", "20M", "300M", "1B", "4B")
GPU = Accelerator("gpu", peak_flops=1e15, memory=80e9, price=2.0, utilization=0.5)


def experiment(tmp_path: Path, model: str = "tiny-8", *overrides: str) -> Experiment:
    file = tmp_path / "experiment.yaml"
    file.write_text(f"name: {model}\nmodel: {model}\ncorpus: {{folder: never-opened}}\n")
    return load_experiment(file, ["train.max_duration=1000", *overrides])


@pytest.mark.parametrize("name", SIZES)
def test_counts_are_ai2_olmos(name: str, tmp_path: Path) -> None:
    run = experiment(tmp_path, name)
    model = OLMo(model_config(run.model).update_with(init_device="meta"), init_params=False)
    count = count_parameters(run.model)
    assert (count.total, count.without_embedding) == (model.num_params(), model.num_params(include_embedding=False))
    d, layers = run.model.d_model, run.model.n_layers
    assert count.block == 4 * d * d + 3 * 4 * d * d  # attention; up, gate and down of 4 d neurons
    assert count.total == layers * count.block + 2 * 50304 * d
    # The backward pass of a matrix product takes twice its forward pass.
    assert flops_per_token(run.model) == 3 * model.num_fwd_flops
    assert count.computing == count.without_embedding


def test_a_tied_head_computes(tmp_path: Path) -> None:
    free = count_parameters(experiment(tmp_path, "tiny-8").model)
    tied = count_parameters(experiment(tmp_path, "tiny-8", "model.weight_tying=true").model)
    assert tied.total == free.total - 2048 * 8
    assert tied.computing == free.computing


def test_time_and_money_in_closed_form(tmp_path: Path) -> None:
    run = experiment(tmp_path, "1B", "train.max_duration=50000")
    cost = estimate(run, GPU, nodes=4, gpus_per_node=8)
    tokens = 50_000 * 1024 * 4096
    assert cost.tokens == tokens
    assert cost.flops_6nd == 6 * 1_176_764_416 * tokens
    assert cost.flops == cost.flops_6nd + 12 * 16 * 2048 * 4096 * tokens
    assert cost.gpu_hours == pytest.approx(cost.flops / 0.5e15 / 3600)
    assert cost.hours == pytest.approx(cost.gpu_hours / 32)
    assert cost.step_seconds == pytest.approx(cost.flops / 50_000 / 32 / 0.5e15)
    assert cost.money == pytest.approx(2 * cost.gpu_hours)
    assert cost.corpus_bytes == 2 * tokens
    assert cost.record()["memory"]["total"] == cost.memory.total
    (tmp_path / "step40000").mkdir()
    write_record(
        tmp_path / "step40000", {"step": 40_000, "kind": "full", "sharded": False, "world_size": 1, "files": {}}
    )
    run.start_from, run.start_state = str(tmp_path / "step40000"), "full"
    branched = estimate(run, GPU)
    assert (branched.tokens, branched.corpus_bytes) == (tokens // 5, 2 * tokens)


def test_bytes_of_the_corpus(tmp_path: Path) -> None:
    run = experiment(tmp_path, "tiny-8")
    read = 1000 * run.batch_size * run.sequence_length
    assert corpus_bytes(run) == 2 * read
    run.corpus.sequences = 10
    assert corpus_bytes(run) == 2 * 10 * run.sequence_length
    run.corpus = CorpusConfig(name="olmo-mix-1124", root="never-opened")  # its ids need 32 bits
    assert corpus_bytes(run) == 4 * read


def test_memory_of_the_strategies(tmp_path: Path) -> None:
    ddp, fsdp = experiment(tmp_path, "1B"), experiment(tmp_path, "4B")
    p, q = count_parameters(ddp.model).total, count_parameters(fsdp.model).total
    whole = estimate_memory(ddp, 32, 8)
    assert (whole.weights, whole.gradients, whole.optimizer) == (4 * p, 4 * p, 8 * p)
    assert whole.working == 4 * p + 2 * p  # buckets, and autocast's copies
    part = estimate_memory(fsdp, 32, 8)
    assert (part.weights, part.gradients, part.optimizer) == (4 * q // 32, 4 * q // 32, 8 * q // 32)
    fsdp.train.fsdp.sharding_strategy = fsdp.train.fsdp.sharding_strategy.HYBRID_SHARD
    assert estimate_memory(fsdp, 32, 8).weights == 4 * q // 8
    assert estimate(fsdp, GPU, nodes=4, gpus_per_node=8).fits
    fsdp.train.distributed_strategy = ddp.train.distributed_strategy
    assert not estimate(fsdp, GPU, nodes=4, gpus_per_node=8).fits
    one, two = (estimate_memory(ddp, gpus, 8).activations for gpus in (1024, 32))  # rows of a micro-batch
    assert 2 * one - two == 3 * 4 * LOGITS_AT_ONCE, "what the loss takes whatever the number of rows"


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_activations_against_what_autograd_keeps(precision: str, tmp_path: Path) -> None:
    run = experiment(tmp_path, "tiny-32", f"train.precision={precision}", "model.n_layers=6")
    model = OLMo(model_config(run.model).update_with(init_device="cpu", precision=precision))
    owned = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # or a freed address would be taken for the same tensor

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned and tensor.requires_grad:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    rows = torch.randint(2048, (4, 32))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", enabled=precision != "fp32", dtype=torch.bfloat16),
    ):
        logits = model(input_ids=rows).logits[:, :-1].contiguous()
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
    not_yet = 4 * 32 * 2048 * (12 + 3 * (4 if precision == "fp32" else 2))  # what the logits come to at the peak
    also_kept = 4 * 31 * 2048 * 4  # log probabilities
    if precision != "fp32":
        also_kept += 2 * count_parameters(run.model).computing  # autocast's copies, which are counted elsewhere
    estimated = activation_bytes(run.model, run.train, 4) - not_yet
    assert sum(kept.values()) - also_kept == pytest.approx(estimated, rel=0.12)


def test_activations_that_are_computed_again(tmp_path: Path) -> None:
    run = experiment(tmp_path, "1B")
    model, train, rows = run.model, run.train, 4096
    whole = activation_bytes(model, train, 1)
    one = activation_bytes(replace(model, n_layers=1), train, 1)
    block = activation_bytes(replace(model, n_layers=2), train, 1) - one
    assert block == 52 * 2048 * rows
    assert whole == one + 15 * block
    train.activation_checkpointing = ActivationCheckpointingStrategy.whole_layer
    assert activation_bytes(model, train, 1) == one + 16 * 4 * 2048 * rows
    train.activation_checkpointing = ActivationCheckpointingStrategy.one_in_two
    assert activation_bytes(model, train, 1) == one + 8 * block + 8 * 4 * 2048 * rows


def test_checkpoints_are_those_that_training_writes(tmp_path: Path) -> None:
    def counted(*overrides: str, first: int = 0) -> tuple[int, int]:
        found = count_checkpoints(experiment(tmp_path, "tiny-8", *overrides), first)
        n = 34_816
        assert found.bytes == 4 * n * (3 * found.full + found.weights_only)
        return found.full, found.weights_only

    assert counted("train.save_interval=300") == (4, 0)  # 300, 600, 900 and the last
    assert counted("train.save_interval=250") == (4, 0)
    assert counted("train.save_interval=null") == (1, 0)
    assert counted("train.save_interval=300", first=600) == (2, 0)
    assert counted("train.save_interval=300", "checkpoints.also.steps=[0,7,300]") == (6, 0)
    also = ("checkpoints.also.steps=[0,7,300]", "checkpoints.weights_only=true")
    assert counted("train.save_interval=300", *also) == (4, 2)
    assert counted("train.save_interval=100", "train.save_num_checkpoints_to_keep=2", *also) == (4, 2)  # 300 too
    window = "checkpoints.also.windows=[{start: 500, stop: 600, every: 10}]"
    assert counted("train.save_interval=500", window, "checkpoints.weights_only=true") == (2, 9)


def test_impossible_costs_are_refused(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    with pytest.raises(UserError, match="64 rows is not divisible by 3 ranks"):
        estimate(run, GPU, gpus_per_node=3)
    with pytest.raises(UserError, match="at least 1"):
        estimate(run, GPU, nodes=0)
    with pytest.raises(UserError, match=r"'h1000' is not one of h100, h200"):
        find_accelerator("h1000")
    with pytest.raises(UserError, match=r"--utilization: 1.5 must be above 0 and at most 1"):
        GPU.with_changes(utilization=1.5)
    with pytest.raises(UserError, match="--price"):
        GPU.with_changes(price=-1)
    assert GPU.with_changes(price=0).price == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: {peak_flops: 1e12, memory: 1e9, price: 1}", "utilization"),
        ("gpu: {peak_flops: fast, memory: 1e9, price: 1, utilization: 0.5}", "peak_flops"),
        ("gpu: {peak_flops: 1e12, memory: 1e9, price: 1, utilization: 0.5, colour: 2}", "colour"),
        ("gpu: {peak_flops: 1e12, memory: 0, price: 1, utilization: 0.5}", r"gpu\.memory: 0\.0 must be above 0"),
        (
            "gpu: {peak_flops: 1e12, memory: 1e9, price: 1, utilization: 1, device: tpu}",
            "'tpu' is not one of",
        ),
        ("gpu: 3", "gpu"),
        ("- gpu", "must hold keys and values"),
        ("gpu: [", "is not YAML"),
    ],
)
def test_tables_are_checked(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "accelerators.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_accelerators(path)


def test_the_shipped_table() -> None:
    table = read_accelerators(configs_folder() / "accelerators.yaml")
    assert {"h100", "a100-80gb", "cpu-core"} <= table.keys()
    assert all(entry.name == name for name, entry in table.items())
    assert table["h100"].peak_flops == 989.5e12


def printed(table: Table) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_tables(tmp_path: Path) -> None:
    costs = [estimate(experiment(tmp_path, name), GPU, gpus_per_node=8) for name in SIZES]
    work, room = printed(cost_table(costs)), printed(room_table(costs))
    for cost in costs:
        assert f" {cost.name} " in work
        assert f" {cost.name} " in room
    assert "4,161,208,320" in printed(run_table(costs[-1]))
    count = costs[0].parameters
    assert f" {short(count.without_embedding)} {short(count.total)} " in work
    assert "params: without the input embedding, as ai2-olmo counts; with emb.: with it." in " ".join(work.split())
    assert "assumed: gpu at 50% of its peak, $2.00 an hour; small models reach less" in " ".join(work.split())
    assert "50% of that, assumed; small models reach less" in printed(run_table(costs[0]))
    assert "50% of that, measured" in printed(run_table(costs[0], measured=True))
    costs[-1].memory.__dict__["activations"] = 10**12
    assert "TOO MUCH" in printed(run_table(costs[-1]))
    assert "too much" in printed(room_table(costs))


def test_numbers_are_whole_on_80_columns(tmp_path: Path) -> None:
    cost = replace(estimate(experiment(tmp_path, "4B"), GPU, gpus_per_node=8), name="model-4B_rate-1over1000_seed-7")
    for table in (cost_table([cost, cost]), room_table([cost, cost])):
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(table)
        text = console.export_text()
        assert "…" not in text
        pieces = [line.split()[0] for line in text.split("─ \n")[1].splitlines() if line.strip()]
        assert "".join(pieces).startswith(cost.name)
    for value in (money(cost.money), hours(cost.hours), in_bytes(cost.checkpoints.bytes)):
        assert value in printed(cost_table([cost])) + printed(room_table([cost]))


def test_cells_without_gpus_are_counted_on_cores(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        f"""
name: mixed
folder: {tmp_path}/mixed
experiment: demo
axes: [{{name: model, key: model, values: [tiny-8, tiny-16]}}]
resources: {{gpus_per_node: 4}}
rules: [{{when: {{model: tiny-8}}, resources: {{gpus_per_node: 0, processes_per_node: 2}}}}]
"""
    )
    on_cores, on_gpus = cell_costs(load_sweep(tmp_path / "sweep.yaml"), find_accelerator("h100"))
    assert (on_cores.accelerator.name, on_cores.gpus) == ("cpu-core", 2)
    assert (on_gpus.accelerator.name, on_gpus.gpus) == ("h100", 4)
    cheaper = find_accelerator("cpu-core").with_changes(price=0.01)
    assert cell_costs(load_sweep(tmp_path / "sweep.yaml"), cheaper)[0].accelerator.price == 0.01


def test_numbers_for_people() -> None:
    numbers = {
        0: "0",
        999: "999",
        1_000: "1K",
        371_458_048: "371M",
        999_600_000: "1G",
        4.16e15: "4.16P",
        2e19: "2e+04P",
    }
    assert {number: short(number) for number in numbers} == numbers
    assert [in_bytes(n) for n in (12, 20_500_000_000)] == ["12 B", "20.5 GB"]
    assert [hours(h) for h in (1 / 3600, 0.2, 1.25, 1204.4)] == ["1 s", "12 min", "1.2 h", "1,204 h"]
    assert [money(m) for m in (0.5, 1234.5)] == ["$0.50", "$1,234"]
