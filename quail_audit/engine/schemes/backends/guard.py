"""Remove a folder, and end what works in it, once the process that started this one is gone.

`python -m quail_audit.engine.schemes.backends.guard FOLDER` reads its standard input until it closes, which happens
when the other end ends. A line "+PGID" names a process group to kill then, "-PGID" one that has ended. Imports nothing
of Quail.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Wait, then clean up. Ctrl-C is for the process that is watched; it runs in another session than this one."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
