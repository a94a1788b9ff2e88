"""Run all benchmarks, or the named ones: `python -m benchmarks [NAME]...`. Each is a module of this package."""

from __future__ import annotations

import importlib
import sys

NAMES = ("plan", "loader", "trainer", "theory", "gradients", "analysis", "stage", "build", "scan")


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    if unknown := set(chosen) - set(NAMES):
        raise SystemExit(f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in chosen:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
