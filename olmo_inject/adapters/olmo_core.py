"""OLMo-core 3: a loader that injects into another loader's rows, a loader of our corpus, and a measuring callback.

run = InjectedRun.open("my.yaml")
loader = InjectingDataLoader(theirs, run)      # or PlannedDataLoader(run, work_dir=...)
trainer = TrainerConfig(...).with_callback("injection", Injection(run)).build(module, loader)
trainer.fit()
"""

# OLMo-core 3 needs an environment of its own, which the type checker does not see.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from olmo_inject.adapters.recorder import Recorder
from olmo_inject.adapters.run import INDEX, InjectedRun, RankBatches, collate
from olmo_inject.corpus.splice import override_masks, padded_lengths
from olmo_inject.errors import UserError
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.training.loss import IGNORED
from olmo_inject.utils.extras import require_olmo_core
from olmo_inject.utils.number_ranges import check_ranks_share
from olmo_inject.utils.owned_folder import new_folder

require_olmo_core("3.", "ai2-olmo 0.6.0 pins another, so give OLMo-core an environment of its own (make core-env)")

from olmo_core.data import DataCollator, NumpyFSLDataLoader, TextDataLoaderBase  # noqa: E402
from olmo_core.data.composable import ComposableDataLoader  # noqa: E402
from olmo_core.distributed.checkpoint import load_model_and_optim_state  # noqa: E402
from olmo_core.distributed.utils import barrier, get_fs_local_rank, get_rank, get_world_size  # noqa: E402
from olmo_core.nn.hf import save_hf_model  # noqa: E402
from olmo_core.nn.transformer import TransformerConfig  # noqa: E402
from olmo_core.train import Checkpointer  # noqa: E402
from olmo_core.train.callbacks import Callback  # noqa: E402
from olmo_core.train.train_module import TransformerTrainModule  # noqa: E402


class _OnePlan(TextDataLoaderBase):
    """A loader whose batch size is the plan's and never changes."""

    run: InjectedRun

    @property
    def global_batch_size(self) -> int:
        """Tokens in a batch of all ranks."""
        return self._global_batch_size

    @global_batch_size.setter
    def global_batch_size(self, value: int) -> None:
        if value != self._global_batch_size:
            _check_batch(self.run, value)


class InjectingDataLoader(_OnePlan):
    """Splices a plan's instances into the rows of another loader, at any world size, after resumes and over epochs.

    It saves and restores the other loader's state alone. So a checkpoint of a run without injection can be continued
    with injection.

    Args:
        loader: a `NumpyFSLDataLoader` or `ComposableDataLoader`, which give rank r of W the rows r, r + W, ... of a
            batch.
        run: an experiment whose `corpus` names no shards, since the rows are the loader's.

    Raises:
        UserError: another kind of loader, whose row numbers are not known, or another batch size or sequence length.
    """

    def __init__(self, loader: TextDataLoaderBase, run: InjectedRun) -> None:
        if not isinstance(loader, NumpyFSLDataLoader | ComposableDataLoader):
            raise UserError(
                f"{type(loader).__name__}: it is not known which rows of a batch this loader gives to a rank"
            )
        if run.experiment.has_host:
            raise UserError(
                "corpus: remove its shards, since the rows come from the other loader; or use PlannedDataLoader"
            )
        self.loader, self.run = loader, run
        super().__init__(
            collator=loader.collator,
            work_dir=loader.work_dir,
            global_batch_size=loader.global_batch_size,
            dp_world_size=loader.dp_world_size,
            dp_rank=loader.dp_rank,
            fs_local_rank=loader.fs_local_rank,
        )
        _check_batch(run, loader.global_batch_size)

    @property
    def batches_processed(self) -> int:
        """The other loader's, in its epoch."""
        return self.loader.batches_processed

    @batches_processed.setter
    def batches_processed(self, value: int) -> None:
        self.loader.batches_processed = value

    @property
    def epoch(self) -> int:
        """The other loader's, from 1."""
        return self.loader.epoch

    @property
    def total_batches(self) -> int | None:
        """The other loader's, in its epoch."""
        return self.loader.total_batches

    def batches_in_epoch(self, epoch: int) -> int | None:
        """The other loader's."""
        return self.loader.batches_in_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The other loader's."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the other loader."""
        self.loader.load_state_dict(state_dict)

    def reshuffle(self, epoch: int | None = None, **kwargs: Any) -> None:
        """Begin the other loader's epoch."""
        self.loader.reshuffle(epoch, **kwargs)

    def reset(self) -> None:
        """End the other loader's epoch."""
        self.loader.reset()

    def get_mock_batch(self) -> dict[str, Any]:
        """The other loader's."""
        return self.loader.get_mock_batch()

    def _iter_batches(self) -> Iterable[dict[str, Any]]:
        return map(self._injected, self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # The base class's method would count batches, but the other loader counts its own.
        yield from self._iter_batches()

    def _injected(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Splice instances into the batch that the other loader has just produced."""
        before = [self.loader.batches_in_epoch(epoch) for epoch in range(1, self.loader.epoch)]
        step = sum(n or 0 for n in before) + self.loader.batches_processed - 1
        rows = np.arange(self.loader.dp_rank, self.run.plan.batch_size, self.loader.dp_world_size)
        tokens = batch["input_ids"].numpy().copy()
        if tokens.shape != (len(rows), self.run.experiment.sequence_length):
            raise UserError(
                f"step {step}: the loader gave a batch of shape {list(tokens.shape)}; the plan needs "
                f"{[len(rows), self.run.experiment.sequence_length]}"
            )
        positions = self.run.plan.positions(step, rows)
        spans = self.run.splice.into(tokens, positions)
        batch = batch | {"input_ids": torch.from_numpy(tokens), INDEX: torch.from_numpy(positions)}
        if "label_mask" in batch or "instance_mask" in batch:
            batch |= _lifted(batch, tokens.shape, spans)
        if "doc_lens" in batch:
            lengths = padded_lengths(tokens, self.run.splice.eos_id)
            batch |= {"doc_lens": torch.from_numpy(lengths), "max_doc_lens": lengths.max(axis=1).tolist()}
        return batch


def _lifted(batch: Mapping[str, Any], shape: tuple[int, ...], spans: InjectedSpans) -> dict[str, torch.Tensor]:
    """The batch's masks, with every spliced token unmasked."""
    label_mask, instance_mask = batch.get("label_mask"), batch.get("instance_mask")
    targets = np.ones(shape, bool) if label_mask is None else label_mask.numpy().copy()
    counts = None if instance_mask is None else instance_mask.numpy().copy()
    override_masks(targets, counts, spans)
    out = {"label_mask": torch.from_numpy(targets)}
    return out if counts is None else out | {"instance_mask": torch.from_numpy(counts)}


class PlannedDataLoader(_OnePlan):
    """Loads the rows of our corpus in the plan's order. One epoch is the whole run.

    Args:
        run: an experiment whose `corpus` names the shards.
        work_dir: a local folder that OLMo-core requires; nothing is written there.
        dp_world_size: number of data-parallel ranks; all ranks by default.
        dp_rank: data-parallel rank of this process.
        num_workers: number of reading processes beside this one.

    Raises:
        UserError: the batch is not divisible by the ranks.
    """

    def __init__(
        self,
        run: InjectedRun,
        *,
        work_dir: Path | str,
        dp_world_size: int | None = None,
        dp_rank: int | None = None,
        num_workers: int = 0,
    ) -> None:
        experiment, vocabulary = run.experiment, run.data.source.vocabulary
        self.run, self.dataset, self.num_workers = run, run.dataset, num_workers
        super().__init__(
            collator=DataCollator(pad_token_id=vocabulary.pad_id),
            work_dir=work_dir,
            global_batch_size=experiment.batch_size * experiment.sequence_length,
            dp_world_size=get_world_size() if dp_world_size is None else dp_world_size,
            dp_rank=get_rank() if dp_rank is None else dp_rank,
            fs_local_rank=get_fs_local_rank(),
        )
        check_ranks_share(run.plan.batch_size, self.dp_world_size, "batch_size")

    @property
    def total_batches(self) -> int:
        """The run's steps."""
        return self.run.experiment.steps

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that were read. Everything else follows from the plan."""
        return {"batches_processed": self.batches_processed, "tokens_processed": self.tokens_processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            UserError: the state is of a loader with other batches.
        """
        steps, tokens = state_dict["batches_processed"], state_dict["tokens_processed"]
        _check_batch(self.run, tokens // steps if steps else self.global_batch_size)
        self.batches_processed, self.tokens_processed = steps, tokens

    def reshuffle(self, epoch: int | None = None, **kwargs: Any) -> None:
        """Do nothing: the plan's order runs through all epochs of the corpus."""
        self._epoch = 1 if epoch is None else epoch

    def get_mock_batch(self) -> dict[str, Any]:
        """Rows of the first step, without their numbers."""
        rows = self.dataset.batch(range(self.dp_rank, self.run.plan.batch_size, self.dp_world_size))
        return {"input_ids": rows["input_ids"]}

    def _iter_batches(self) -> Iterable[dict[str, Any]]:
        sampler = RankBatches(self.run, self.dp_rank, self.dp_world_size, self.batches_processed)
        for rows in DataLoader(self.dataset, batch_sampler=sampler, collate_fn=collate, num_workers=self.num_workers):
            # OLMo-core's labels are shifted: each holds the next token.
            yield rows | {"labels": F.pad(rows["labels"][:, 1:], (0, 1), value=IGNORED)}


def _check_batch(run: InjectedRun, tokens: int) -> None:
    length = run.experiment.sequence_length
    if tokens % length:
        raise UserError(f"sequence_length: {length} does not divide the loader's global batch of {tokens} tokens")
    run.check_rows(tokens // length, f"{tokens} tokens by sequence_length {length}")


@dataclass
class Injection(Callback):
    """Measures an OLMo-core run and writes its run folder. Refuses batches, streams and resumes other than the plan's.

    Args:
        run: the experiment, read by one of the two loaders.
        settings: your own settings that decide what is computed, such as the optimizer's. A resume with other settings
            is refused.
    """

    run: InjectedRun
    settings: dict[str, Any] | None = None

    priority: ClassVar[int] = 10  # above the checkpointer's: a step is logged before its checkpoint is written

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.run, "let the Trainer load its checkpoint")
        self._hooks: list[Any] = []
        self._index: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def pre_train(self) -> None:
        """Check what the Trainer will do, open the run folder, and hook the model's forward passes.

        Raises:
            UserError: something differs from the plan; the message says what.
        """
        module, trainer = self.trainer.train_module, self.trainer
        if not isinstance(module, TransformerTrainModule) or module.cp_enabled or module.tp_enabled:
            raise UserError(
                "only a TransformerTrainModule under DDP or FSDP can be measured, not other kinds of parallelism"
            )
        _check_batch(self.run, trainer.global_batch_size)
        if trainer.max_steps != self.run.experiment.steps:
            steps = self.run.experiment.steps
            raise UserError(f"steps: {steps}, but the Trainer will train {trainer.max_steps}: change its max_duration")
        model = module.model
        self.recorder.begin(
            model,
            lambda rows: model(rows, logits_to_keep=1)[:, -1].float(),
            step=trainer.global_step,
            described=describe(model),
            settings=self.settings,
        )
        model.train()
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
            model.lm_head.w_out.register_forward_hook(self._keep_logits),
        ]

    def _before_forward(
        self, model: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = dict(named)
        self._index = named.pop(INDEX, None)
        return inputs, named

    def _keep_logits(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if self._index is not None:
            self._logits = output.detach()

    def _after_forward(
        self, model: torch.nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any
    ) -> None:
        if self._index is None or not model.training:  # a dry run, or an evaluation
            return
        index, self._index, logits, self._logits = self._index, None, self._logits, None
        if logits is None:
            raise UserError("the model's loss is fused with its last layer, so there are no logits to measure")
        labels = F.pad(named["labels"][:, :-1], (1, 0), value=IGNORED)
        self.recorder.forward(index, inputs[0], labels, logits, output.ce_loss * named["loss_div_factor"])

    def post_train_batch(self) -> None:
        """Write the step, and evaluate if it is due."""
        rate = float(self.trainer.train_module.optim.param_groups[0]["lr"])  # pyright: ignore[reportAttributeAccessIssue]
        self.recorder.end_step({"optim/learning_rate": rate})
        self.trainer.train_module.model.train()  # pyright: ignore[reportAttributeAccessIssue]

    def post_checkpoint_saved(self, path: Any) -> None:
        """Record that a checkpoint was written."""
        name = Path(str(path)).name.removeprefix("step")
        if name.isdigit() and self._hooks:  # OLMo-core writes its first checkpoint before the run begins
            self.recorder.before_checkpoint()
            self.recorder.after_checkpoint(int(name))

    def close(self) -> None:
        """Close the logs."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.recorder.close()


def convert_checkpoints(folder: Path | str, model: TransformerConfig) -> list[Path]:
    """Write a run's checkpoints for transformers too, from which `evaluate` and `analyze` read them (collective).

    `step4` becomes `checkpoint-4` beside it, by OLMo-core's own conversion. What was converted before is kept.

    Args:
        folder: the run's `checkpoints`, where the Trainer saved.
        model: the configuration of the model that was trained.

    Returns:
        The folders that were written.
    """
    checkpoints = sorted(Checkpointer.find_checkpoints(str(folder)))
    todo = [(path, Path(folder, f"checkpoint-{step}")) for step, path in checkpoints]
    todo = [(path, to) for path, to in todo if not to.exists()]
    barrier()  # nobody writes before all have looked
    for path, to in todo:
        built = model.build(init_device="cpu")
        load_model_and_optim_state(f"{path}/model_and_optim", built)
        if get_rank() == 0:
            with new_folder(to) as temporary:
                save_hf_model(temporary, built.state_dict(), built, save_overwrite=True)
    barrier()
    return [to for _, to in todo]


def describe(model: Any) -> dict[str, Any]:
    """Describe a model: size in words, number of parameters without the input embedding, and shapes of its weights."""
    shapes = {name: "x".join(map(str, parameter.shape)) for name, parameter in model.named_parameters()}
    embedding = model.embeddings.weight
    return {
        "size": f"OLMo-core, {model.d_model} wide, {model.n_layers} deep",
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - embedding.numel(),
        "vocab_size": embedding.shape[0],
        "shapes": shapes,
    }
