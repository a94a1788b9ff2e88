"""Entry point of a rank: `python -m olmo_inject.training.rank PARENT MODULE ARGUMENT...`.

It imports little, so that a rank ends with its parent from the first moment on. The other imports take seconds.
"""

from __future__ import annotations

import runpy
import sys

from olmo_inject.utils.stop_signals import stop_with_parent

if __name__ == "__main__":
    stop_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
