"""Checkpoints that are named as on the Hugging Face hub: OWNER/NAME@REVISION."""

from __future__ import annotations

import re
from pathlib import Path

from olmo_inject.errors import UserError, in_one_line

# The revision must be named: another one would be another model under the same name.
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json"]


def is_hub_name(text: str) -> bool:
    """Whether `text` names a checkpoint on the hub, and no folder of this machine."""
    return _NAME.fullmatch(text) is not None and not Path(text).exists()


def local_folder(text: str) -> Path:
    """The folder that `start_from` means. A checkpoint on the hub is downloaded to the hub's cache, if it is not there.

    Args:
        text: a folder, or OWNER/NAME@REVISION.

    Raises:
        UserError: the hub cannot be reached and the cache lacks the checkpoint, or the hub has none of this name.
    """
    if not is_hub_name(text):
        return Path(text)
    import huggingface_hub  # brought by tokenizers
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    match = _NAME.fullmatch(text)
    assert match is not None
    try:
        folder = huggingface_hub.snapshot_download(
            match["repository"], revision=match["revision"], allow_patterns=_FILES
        )
    except Exception as error:  # many types: of the hub, of HTTP and of the network
        raise UserError(
            f"start_from: {text} cannot be had from the Hugging Face hub: {in_one_line(error)[:300]}"
        ) from error
    return Path(folder)
