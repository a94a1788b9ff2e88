"""Names the extra of this project that brings a package, where a command needs one that is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from olmo_inject.errors import UserError

# extra -> what it brings and the core does not need, by the name in an import: package
BRINGS: Mapping[str, Mapping[str, str]] = {
    "olmo": {
        **{"olmo": "ai2-olmo", "olmo_data": "ai2-olmo", "olmo_core": "ai2-olmo-core", "wandb": "wandb"},
        **{"torchmetrics": "torchmetrics", "sklearn": "scikit-learn"},
    },
    "analysis": {"transformers": "transformers", "safetensors": "safetensors", "matplotlib": "matplotlib"},
    "transformers": {"accelerate": "accelerate"},
    "build": {"datasets": "datasets", "zstandard": "zstandard"},
    "s3": {"boto3": "boto3", "botocore": "botocore"},
    "suites": {"lm_eval": "lm-eval"},
}
PYTHONS = {"olmo": " (Python 3.10 to 3.12)"}


def missing(module: str | None) -> UserError | None:
    """The line that says what to install for an import that failed, or nothing if no extra brings it."""
    for extra, packages in BRINGS.items():
        if package := packages.get((module or "").partition(".")[0]):
            python = PYTHONS.get(extra, "")
            return UserError(
                f"this needs {package}, which is not installed: pip install 'olmo-inject[{extra}]'{python}"
            )
    return None


def require(module: str) -> None:
    """Check that a module is installed before anything is done that would need it later.

    Raises:
        UserError: it is not; the message says which extra brings it.
    """
    if find_spec(module) is None and (problem := missing(module)):
        raise problem


def require_olmo_core(release: str, why: str) -> None:
    """Refuse another release of ai2-olmo-core than the one that ai2-olmo, or an adapter, was written for.

    Args:
        release: how its version begins.
        why: what needs it and what to do, for the message.

    Raises:
        UserError: another release is installed, or none.
    """
    try:
        installed = version("ai2-olmo-core")
    except PackageNotFoundError:
        installed = "none"
    if not installed.startswith(release):
        raise UserError(f"OLMo-core {release.rstrip('.')} is needed, and {installed} is installed: {why}")
