"""transformers' Trainer: a callback that makes it read the planned rows, measures them and writes the run folder.

    run = InjectedRun.open("my.yaml")
    trainer = Trainer(model, arguments, train_dataset=run.dataset, data_collator=collate, callbacks=[Injection(run)])
    trainer.train()

It works with one process or several (torchrun, accelerate), gradient accumulation and loader workers. The rows of a
step are always the plan's, whichever process reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from olmo_inject.adapters.recorder import Recorder
from olmo_inject.adapters.run import INDEX, InjectedRun
from olmo_inject.errors import UserError
from olmo_inject.training.loss import IGNORED

# Settings that decide the weights, beside the model and the rows; `Recorder.begin` refuses a resume with others.
SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm", "weight_decay"),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor"),
    *("neftune_noise_alpha", "bf16", "fp16", "seed", "data_seed"),
)
# Keys of a model's configuration that say where it came from and how it is run, not what it computes.
NOT_THE_MODEL = (
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_attn_implementation"),
    "architectures",  # which saving a model writes into its configuration
)


class Injection(TrainerCallback):
    """Measures a Trainer's run. Refuses an order, a batch or a resume that is not the plan's.

    When the Trainer is made, the callback sets `train_sampling_strategy="sequential"` and
    `remove_unused_columns=False`. Without them the Trainer would shuffle rows and drop their positions.

    Args:
        run: the experiment that is trained.
    """

    def __init__(self, run: InjectedRun) -> None:
        self.run = run
        self.recorder = Recorder(run, "train(resume_from_checkpoint=True)")
        self._hooks: list[Any] = []
        self._index: torch.Tensor | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the Trainer read rows in order and keep their positions."""
        args.train_sampling_strategy = "sequential"
        args.remove_unused_columns = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check what the Trainer will do, open the run folder, and hook the model's forward passes.

        Raises:
            UserError: something differs from the plan; the message says what.
        """
        model = kwargs["model"]
        self._check(args, state)
        self._complete_weights(model, args, state.global_step)
        self.recorder.begin(
            model,
            lambda rows: model(input_ids=rows).logits[:, -1].float(),
            step=state.global_step,
            described=describe(model),
            settings=_plain({name: getattr(args, name, None) for name in SETTINGS}),
        )
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]
        model.train()

    def _check(self, args: TrainingArguments, state: TrainerState) -> None:
        if args.remove_unused_columns or args.train_sampling_strategy != "sequential":
            raise UserError("pass the callback to Trainer(callbacks=[...]): it sets the order when the Trainer is made")
        if args.n_gpu > 1:
            raise UserError("transformers' Trainer would use DataParallel; start one process per GPU with torchrun")
        parts = args.train_batch_size, args.world_size, args.gradient_accumulation_steps
        how = f"{parts[0]} on each of {parts[1]} processes, {parts[2]} times (gradient_accumulation_steps)"
        self.run.check_rows(parts[0] * parts[1] * parts[2], how)
        if state.max_steps != self.run.experiment.steps:
            steps = self.run.experiment.steps
            raise UserError(f"steps: {steps}, but the Trainer will train {state.max_steps}: change its max_steps")

    def _complete_weights(self, model: PreTrainedModel, args: TrainingArguments, step: int) -> None:
        """Load weights that the Trainer's resume leaves out, since it looks for other names than it saves.

        This happens for GPT-NeoX in transformers 5: `embed_out` in the file is `lm_head` in the model, which would stay
        random.
        """
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{step}"
        if step and not self.recorder.has_saved_weights(model, step) and checkpoint.is_dir():
            loaded = type(model).from_pretrained(checkpoint, dtype=model.dtype)
            with torch.no_grad():
                for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
                    mine.copy_(theirs)

    def _before_forward(
        self, model: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = dict(named)
        self._index = named.pop(INDEX, None)
        return inputs, named

    def _after_forward(
        self, model: torch.nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any
    ) -> None:
        if self._index is None or not model.training:  # an evaluation
            return
        index, self._index = self._index, None
        labels = named["labels"]
        n = named.get("num_items_in_batch")
        targets = (labels[:, 1:] != IGNORED).sum() if n is None else n
        self.recorder.forward(index, named["input_ids"], labels, output.logits, output.loss.detach() * targets)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the step, evaluate if it is due, and bring the lines to disk if a checkpoint follows."""
        self.recorder.end_step({"optim/learning_rate": self._rate})
        if control.should_save:
            self.recorder.before_checkpoint()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the step's learning rate before the scheduler changes it."""
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record that the checkpoint was written."""
        self.recorder.after_checkpoint()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the logs."""
        for hook in self._hooks:
            hook.remove()
        self.recorder.close()


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """Describe a model: size in words, number of parameters without the input embedding, and configuration."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_MODEL}
    embedding: Any = model.get_input_embeddings()
    unembedding: Any = model.get_output_embeddings()
    tied = unembedding is not None and unembedding.weight is embedding.weight
    n = sum(parameter.numel() for parameter in model.parameters())
    return {
        "size": f"{model.config.model_type}, {model.config.hidden_size} wide, {model.config.num_hidden_layers} deep",
        "parameters": n if tied else n - embedding.weight.numel(),
        "vocab_size": embedding.weight.shape[0],
        "config": _plain(config),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in types that the run folder's YAML can hold."""
    return json.loads(json.dumps(dict(values), default=str))
