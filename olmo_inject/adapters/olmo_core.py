"""OLMo-core 3: a loader that injects into another's rows, a loader of our corpus, and a callback that measures both.

run = InjectedRun.open("my.yaml")
loader = InjectingDataLoader(theirs, run)      # or PlannedDataLoader(run, work_dir=...)
trainer = TrainerConfig(...).with_callback("injection", Injection(run)).build(module, loader)
trainer.fit()
"""

# OLMo-core 3 has an environment of its own, which the type checker does not see.
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
from olmo_inject.adapters.run import IGNORED, INDEX, InjectedRun, RankBatches, collate
from olmo_inject.corpus.splice import lift_masks, padded_lengths
from olmo_inject.errors import UserError
from olmo_inject.extras import require_olmo_core
from olmo_inject.injection.splicing import Splices

require_olmo_core("3.", "ai2-olmo 0.6.0 pins another, so give OLMo-core an environment of its own (make core-env)")

from olmo_core.data import DataCollator, NumpyFSLDataLoader, TextDataLoaderBase  # noqa: E402
from olmo_core.data.composable import ComposableDataLoader  # noqa: E402
from olmo_core.distributed.utils import get_fs_local_rank, get_rank, get_world_size  # noqa: E402
from olmo_core.train.callbacks import Callback  # noqa: E402
from olmo_core.train.train_module import TransformerTrainModule  # noqa: E402


class InjectingDataLoader(TextDataLoaderBase):
    """Puts a plan's instances into the rows of another loader, at any world size, after a resume and over epochs.

    What it saves and restores is the other loader's state, so a checkpoint of a run without it may be gone on with.

    Args:
        loader: a `NumpyFSLDataLoader` or `ComposableDataLoader`: rank r of W is given rows r, r + W, ... of a batch.
        run: whose `corpus` names no shards: the rows are the loader's.

    Raises:
        UserError: another kind of loader, whose rows' numbers are not known, or one of another batch or length.
    """

    def __init__(self, loader: TextDataLoaderBase, run: InjectedRun) -> None:
        if not isinstance(loader, NumpyFSLDataLoader | ComposableDataLoader):
            raise UserError(f"{type(loader).__name__}: which rows of the batch it gives a rank is not known")
        if run.experiment.has_host:
            raise UserError(
                "corpus: its rows are the other loader's, so it may not name shards; or use PlannedDataLoader"
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
        # Not the base class's: the other loader counts its batches itself.
        yield from self._iter_batches()

    def _injected(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Splice the batch that the other loader has just counted."""
        before = [self.loader.batches_in_epoch(epoch) for epoch in range(1, self.loader.epoch)]
        step = sum(n or 0 for n in before) + self.loader.batches_processed - 1
        rows = np.arange(self.loader.dp_rank, self.run.plan.batch_size, self.loader.dp_world_size)
        tokens = batch["input_ids"].numpy().copy()
        if tokens.shape != (len(rows), self.run.experiment.sequence_length):
            raise UserError(
                f"step {step}: the loader gave rows of shape {list(tokens.shape)}; the plan's are "
                f"{[len(rows), self.run.experiment.sequence_length]}"
            )
        splices = self.run.splice.into(tokens, step * self.run.plan.batch_size + rows)
        batch = batch | {"input_ids": torch.from_numpy(tokens)}
        batch[INDEX] = torch.from_numpy(step * self.run.plan.batch_size + rows)
        if "label_mask" in batch or "instance_mask" in batch:
            batch |= _lifted(batch, tokens.shape, splices)
        if "doc_lens" in batch:
            lengths = padded_lengths(tokens, self.run.splice.eos_id)
            batch |= {"doc_lens": torch.from_numpy(lengths), "max_doc_lens": lengths.max(axis=1).tolist()}
        return batch


def _lifted(batch: Mapping[str, Any], shape: tuple[int, ...], splices: Splices) -> dict[str, torch.Tensor]:
    """A batch's masks, with what is spliced as targets."""
    label_mask, instance_mask = batch.get("label_mask"), batch.get("instance_mask")
    targets = np.ones(shape, bool) if label_mask is None else label_mask.numpy().copy()
    counts = None if instance_mask is None else instance_mask.numpy().copy()
    lift_masks(targets, counts, splices)
    out = {"label_mask": torch.from_numpy(targets)}
    return out if counts is None else out | {"instance_mask": torch.from_numpy(counts)}


class PlannedDataLoader(TextDataLoaderBase):
    """Loads the rows of our corpus, in the plan's order; one epoch is the whole run.

    Args:
        run: whose `corpus` names the shards.
        work_dir: a folder of this machine, as OLMo-core asks for; nothing is written there.
        dp_world_size: data-parallel ranks; by default all.
        dp_rank: this one.
        num_workers: processes that read, beside this one.
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
        RankBatches(run, self.dp_rank, self.dp_world_size)  # refuses ranks that cannot share a batch

    @property
    def total_batches(self) -> int:
        """The run's steps."""
        return self.run.experiment.steps

    def state_dict(self) -> dict[str, Any]:
        """How far it is: the plan says all else."""
        return {"batches_processed": self.batches_processed, "tokens_processed": self.tokens_processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: the state of a loader with other batches.
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
            # OLMo-core's labels are shifted: what each token is to predict.
            yield rows | {"labels": F.pad(rows["labels"][:, 1:], (0, 1), value=IGNORED)}


def _check_batch(run: InjectedRun, tokens: int) -> None:
    length = run.experiment.sequence_length
    if tokens % length:
        raise UserError(f"sequence_length: {length} does not divide the loader's global batch of {tokens} tokens")
    run.check_rows(tokens // length, f"{tokens} tokens by sequence_length {length}")


@dataclass
class Injection(Callback):
    """Measures an OLMo-core run and keeps its folder; refuses a batch, a stream or a resume that is not the plan's.

    Args:
        run: what is trained, by one of the two loaders.
        settings: of your own that decide what is computed, such as the optimizer's; a resume with others is refused.
    """

    run: InjectedRun
    settings: dict[str, Any] | None = None

    priority: ClassVar[int] = 10  # before the checkpointer's, so that a step is on disk before its checkpoint

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.run, "let the Trainer load its checkpoint")
        self._hooks: list[Any] = []
        self._index: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def pre_train(self) -> None:
        """Check what the Trainer is about to do, open the run folder, and watch the model's forward passes.

        Raises:
            UserError: one line that says what differs from the plan.
        """
        module, trainer = self.trainer.train_module, self.trainer
        if not isinstance(module, TransformerTrainModule) or module.cp_enabled or module.tp_enabled:
            raise UserError(
                "measured are TransformerTrainModules under DDP and FSDP, not tensor, context or pipeline parallel"
            )
        _check_batch(self.run, trainer.global_batch_size)
        if trainer.max_steps != self.run.experiment.steps:
            steps = self.run.experiment.steps
            raise UserError(f"steps: {steps}, but the Trainer is to make {trainer.max_steps}: max_duration")
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
        """Note that a checkpoint is written."""
        name = Path(str(path)).name.removeprefix("step")
        if name.isdigit() and self._hooks:  # the first is written before the run begins
            self.recorder.before_checkpoint()
            self.recorder.after_checkpoint(int(name))

    def close(self) -> None:
        """Close the logs."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.recorder.close()


def describe(model: Any) -> dict[str, Any]:
    """What a model is: its size in words, its parameters without the input embedding, its names and shapes."""
    shapes = {name: "x".join(map(str, parameter.shape)) for name, parameter in model.named_parameters()}
    embedding = model.embeddings.weight
    return {
        "size": f"OLMo-core, {model.d_model} wide, {model.n_layers} deep",
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - embedding.numel(),
        "vocab_size": embedding.shape[0],
        "shapes": shapes,
    }
