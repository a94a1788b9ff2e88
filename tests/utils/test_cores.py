"""Cores that a process may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken from a process here")
def test_cores_taken_from_a_process_do_not_count() -> None:
    one = min(os.sched_getaffinity(0))
    one_left = f"import os; os.sched_setaffinity(0, {{{one}}})"
    code = f"{one_left}; from olmo_inject.utils.cores import *; print(available_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
