"""The command line as where no extra is installed: `without_extras.py COMMANDS`, a JSON list of argument lists.

Prints one line of JSON: the exit status of each command.
"""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from typing import Any

from olmo_inject.utils.extras import BRINGS

HIDDEN = {module for modules in BRINGS.values() for module in modules}


class Hide:
    """Says of what the extras bring that it is not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


sys.meta_path.insert(0, Hide())  # also in the processes that a command starts, which import this file

if __name__ == "__main__":
    from olmo_inject.cli import main

    statuses = []
    for arguments in json.loads(sys.argv[1]):
        try:
            main(arguments)
        except SystemExit as end:
            statuses.append(end.code)
    print(json.dumps(statuses))
