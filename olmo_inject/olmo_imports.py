"""Import ai2-olmo 0.6.0 without the packages that it imports and this project does not use.

Some modules of ai2-olmo and ai2-olmo-core import packages that only few of their functions need. Every command and
every rank would pay many seconds of CPU for that. While such a module is imported, `defer` replaces the package by a
placeholder. A function that uses the package later gets the real one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

DEFERRED: Mapping[str, tuple[str, ...]] = {
    "olmo.util": ("boto3", "cached_path.schemes", "datasets"),
    "olmo_core.distributed.checkpoint": ("cached_path",),
    "olmo.train": ("olmo.eval",),  # and with it torchmetrics, scikit-learn, scipy, matplotlib and transformers
}


class Placeholder:
    """Stands for a class or function of a deferred package; a call imports the package and calls the real one."""

    recoverable_errors = ()  # attribute of cached_path's SchemeClient, which `olmo.util` extends

    def __new__(cls, *args: Any, **named: Any) -> Any:
        """Import the package and return what the real class or function returns."""
        if Placeholder not in cls.__bases__:  # ai2-olmo's client for weka:// addresses, registered by its own scripts
            raise RuntimeError(f"{cls.__name__}: import olmo.util before olmo_inject to use it")
        return getattr(importlib.import_module(cls.__module__), cls.__name__)(*args, **named)


class Deferred(ModuleType):
    """A package that is imported at its first use. It has placeholders until `ready`, then the package's contents."""

    ready = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.ready:
            return getattr(importlib.import_module(self.__name__), name)
        return type(name, (Placeholder,), {"__module__": self.__name__})


class _Loader(SourceFileLoader):
    """Executes a module of ai2-olmo with placeholders for the deferred packages."""

    def exec_module(self, module: ModuleType) -> None:
        absent = [name for name in DEFERRED[module.__name__] if name not in sys.modules]
        placeholders = {name: Deferred(name) for name in absent}
        sys.modules.update(placeholders)
        try:
            super().exec_module(module)
        finally:
            for name, placeholder in placeholders.items():
                del sys.modules[name]
                placeholder.ready = True


class _Finder:  # not a subclass of importlib.abc.MetaPathFinder, whose import is slow
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in DEFERRED else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def defer() -> None:
    """Defer these packages in every later import of ai2-olmo."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
