"""Convert checkpoints: to one safetensors file, to one resumable file, or to a transformers folder.

Every folder appears whole or not at all. Nothing that exists is replaced.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from olmo.config import DistributedStrategy, ModelConfig, TrainConfig
from safetensors import SafetensorError

from olmo_inject.corpus.kinds import find_corpus
from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import RECORD
from olmo_inject.runs.read import is_run, load_run
from olmo_inject.training.checkpoints import on_disk, save_restore
from olmo_inject.training.checkpoints.record import file_record, save_tensors, share, write_record
from olmo_inject.training.checkpoints.weights import Weights, check_is_checkpoint, load_weights, read_model_config
from olmo_inject.training.parallel import (
    build_model,
    build_optimizer,
    process_group,
)
from olmo_inject.utils.described_yaml import one_line
from olmo_inject.utils.files import read_json, write_json
from olmo_inject.utils.owned_folder import new_folder
from olmo_inject.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG = "config.yaml"


def read_config(path: Path) -> TrainConfig:
    """Read the `config.yaml` of a checkpoint of ours or of ai2-olmo.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    check_is_checkpoint(path)
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} is not a checkpoint: it has no {CONFIG}")
    try:
        with warnings.catch_warnings():  # ai2-olmo registers its resolvers by a deprecated function of OmegaConf
            warnings.filterwarnings("ignore", r"register_new_resolver\(\) is deprecated", UserWarning)
            return TrainConfig.load(path / CONFIG)
    except Exception as error:  # errors of ai2-olmo and of OmegaConf
        raise UserError(f"{path / CONFIG} cannot be read: {one_line(error)}") from None


def read_model(path: Path) -> tuple[Weights, ModelConfig]:
    """Read the weights of any kind of checkpoint, and its model's configuration.

    Raises:
        UserError: as in `read_model_config` and `load_weights`.
    """
    config = read_model_config(path)
    return load_weights(path, config), config


def unshard(path: Path, to: Path) -> on_disk.Checkpoint:
    """Write the weights of any kind of checkpoint as a weights-only checkpoint: `model.safetensors`.

    Raises:
        UserError: as in `read_model`; `to` exists, or cannot be written.
    """
    weights, _ = read_model(path)
    with _new_folder(to) as tmp:
        # Each tensor gets its own memory, since safetensors refuses views of shared memory.
        copies = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
        save_tensors(copies, tmp / "model.safetensors")
        shutil.copyfile(path / CONFIG, tmp / CONFIG)
        record = {"step": _step(path), "kind": "weights", "sharded": False, "world_size": 1}
        files = {name: file_record(tmp / name) for name in ("model.safetensors", CONFIG)}
        write_record(tmp, record | {"files": files})
    return on_disk.read_checkpoint(to)


def unshard_with_optimizer(path: Path, to: Path) -> on_disk.Checkpoint:
    """Write a full FSDP checkpoint as a full DDP checkpoint, from which a run can resume.

    Needs CPU memory for the whole model and its optimizer: 16 bytes per parameter. Creates a process group of
    one, so call it outside of any other.

    Raises:
        UserError: as in `restore`; `to` exists, or cannot be written.
    """
    config = read_config(path)
    source = on_disk.read_checkpoint(path)
    config.distributed_strategy = DistributedStrategy.ddp
    config.precision = "fp32"  # the model computes nothing here
    config.compile = None
    with process_group("cpu") as device:
        _, dist_model = build_model(config, device)
        optim = build_optimizer(config, dist_model)
        state = save_restore.restore(source, dist_model, optim)
        with _new_folder(to) as tmp:
            written = save_restore.save(tmp, source.step, dist_model, optim, state, read_config(path))
            for file in written.path.iterdir():
                file.rename(tmp / file.name)
            written.path.rmdir()
    return on_disk.read_checkpoint(to)


def export(path: Path, to: Path, vocabulary: Vocabulary | None) -> str:
    """Write any kind of ai2-olmo's checkpoints as a transformers folder, and return the name of its class.

    `AutoModelForCausalLM.from_pretrained(to)` of transformers 4 or 5 loads it without a network. On a CPU its logits
    equal the original's bit for bit (for the widths given in `checkpoints.transformers`).

    Args:
        path: the checkpoint.
        to: a folder that does not exist.
        vocabulary: its tokenizer is written for `AutoTokenizer`; None, or a vocabulary without a tokenizer, writes
            none.

    Raises:
        UserError: as in `read_model`; or transformers has no equal model; or `to` exists or cannot be written.
    """
    from olmo_inject.training.checkpoints.load import without_progress_bars
    from olmo_inject.training.checkpoints.transformers import to_transformers

    weights, config = read_model(path)
    model = to_transformers(weights, config)
    with _new_folder(to) as tmp:
        with without_progress_bars():
            model.save_pretrained(tmp)
        if vocabulary is not None and vocabulary.tokenizer is not None:
            fast_tokenizer(vocabulary, config.max_sequence_length).save_pretrained(tmp)
        _add_older_names(tmp)
        mode = (tmp / "config.json").stat().st_mode  # safetensors gives its own files another mode
        for file in tmp.iterdir():
            share(file, mode)
    return type(model).__name__


def find_vocabulary(path: Path, tokenizer: str | None, corpus: Path | None = None) -> tuple[Vocabulary | None, str]:
    """The vocabulary of a checkpoint's run or of `tokenizer`. None and the reason if there is no tokenizer.

    Args:
        path: the checkpoint.
        tokenizer: a tokenizer file or name; None: the one of the checkpoint's run.
        corpus: where the run's corpus is now, if it has moved.

    Raises:
        UserError: the tokenizer cannot be read, or is not the model's.
    """
    model = read_config(path).model
    if tokenizer is not None:
        vocabulary = Vocabulary.load(tokenizer, eos_id=model.eos_token_id, pad_id=model.pad_token_id)
    elif is_run(path.parent):
        vocabulary = find_corpus(load_run(path.parent, corpus).experiment.corpus).vocabulary
    else:
        return None, f"{path} does not lie in its run's folder"
    if vocabulary.size > model.vocab_size:
        raise UserError(f"{path}: its vocabulary of {model.vocab_size} is less than that of {vocabulary.identifier}")
    return (None, "its corpus has none") if vocabulary.tokenizer is None else (vocabulary, "")


def fast_tokenizer(vocabulary: Vocabulary, longest: int) -> PreTrainedTokenizerFast:
    """A vocabulary's tokenizer for transformers; `longest` is the model's sequence length."""
    from transformers import PreTrainedTokenizerFast

    assert vocabulary.tokenizer is not None
    eos, pad = (vocabulary.tokenizer.id_to_token(i) for i in (vocabulary.eos_id, vocabulary.pad_id))
    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer, eos_token=eos, pad_token=pad, model_max_length=longest
    )


def _add_older_names(folder: Path) -> None:
    """Add what transformers 4 reads to the files that transformers 5 wrote. Both versions read the result."""
    described = read_json(folder / "config.json")
    write_json(folder / "config.json", {**described, "rope_theta": described["rope_parameters"]["rope_theta"]})
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        write_json(tokenizer, {**read_json(tokenizer), "tokenizer_class": "PreTrainedTokenizerFast"})


def _step(path: Path) -> int:
    """The step of one of our checkpoints; for other checkpoints the number in the name, or 0."""
    if (path / RECORD).is_file():
        return on_disk.read_checkpoint(path).step
    digits = path.name.removeprefix("step").removesuffix("-unsharded")
    return int(digits) if digits.isdecimal() else 0


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """Call `new_folder` without gradients. A full disk that safetensors reports becomes a `UserError`."""
    try:
        with torch.no_grad(), new_folder(to) as temporary:
            yield temporary
    except SafetensorError as error:
        raise UserError(f"cannot write {to}: {error}") from error
