"""Load any checkpoint as a transformers model. Folders of transformers need no ai2-olmo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from olmo_inject.errors import UserError, in_one_line


def load_model(path: Path) -> PreTrainedModel:
    """Load the weights in a folder as a transformers model on the CPU, in evaluation mode and float32.

    Checkpoints of this project (unsharded, sharded or weights only) are compared with their record first. They and
    ai2-olmo's are converted by `to_transformers`. A transformers folder is loaded as it is.

    Raises:
        UserError: the weights are missing, damaged, unsafe to read, or not of a causal language model.
    """
    if (path / "config.json").is_file():
        return load_transformers(path)
    from olmo_inject.training.checkpoints.transformers import to_transformers  # imports ai2-olmo
    from olmo_inject.training.checkpoints.weights import load_weights, read_model_config

    config = read_model_config(path)
    return to_transformers(load_weights(path, config), config)


def load_transformers(path: Path) -> PreTrainedModel:
    """Load a transformers folder, in evaluation mode and float32, without a network and without running its code.

    Raises:
        UserError: it cannot be read, or is not a causal language model.
    """
    try:
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # many types: missing weights, half a file, unknown architecture, custom code
        raise UserError(f"{path} cannot be read as a transformers model: {in_one_line(error)[:200]}") from error
    return model.eval()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within the context, transformers draws no progress bars when it reads or writes weights."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
