"""Run benchmarks: `python -m benchmarks [NAME]...`, without a name all of `NAMES`. Each is a module of this package.

Those of `WITH_OPTIONS` run alone: `python -m benchmarks NAME [OPTION]...`.
"""

from __future__ import annotations

import importlib
import sys

NAMES = ("plan", "loader", "trainer", "theory", "gradients", "analysis", "stage", "build", "scan")
WITH_OPTIONS = ("gpu", "scale")


def main() -> None:
    given = sys.argv[1:]
    chosen = given[:1] if given and given[0] in WITH_OPTIONS else given or NAMES
    if unknown := set(chosen) - {*NAMES, *WITH_OPTIONS}:
        raise SystemExit(
            f"unknown benchmark {', '.join(sorted(unknown))}; there are {', '.join((*NAMES, *WITH_OPTIONS))}"
        )
    for name in chosen:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
