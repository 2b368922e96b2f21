"""Stand between the app and a `quail` command, so that the command ends with the app.

The command ends with the app however the app ends. `python -m quail_audit.tui.live.leash audit …` starts the command in
a process group of its own. The app holds the other end of this process's standard input. When that closes, because the
app quit, crashed or was killed, the command is told to stop as by Ctrl-C. If it does not listen, it is killed with
everything it started. Imports nothing of the app.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 5.0  # for the command to write down what it has
PR_SET_PDEATHSIG = 1  # linux/prctl.h
NICENESS = 5  # so that the app stays quick while both cores are busy


def main() -> None:
    """Run the command that the arguments name, and end as it does: with its exit code or by its signal."""
    os.nice(NICENESS)
    # -P: never import a file of the folder that the app was opened in
    arguments = [sys.executable, "-P", "-m", "quail_audit", *sys.argv[1:]]
    command = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_end_with_the_leash,
    )
    signal.signal(signal.SIGTERM, lambda *_: _send(command, signal.SIGTERM))
    threading.Thread(target=_end_with_the_app, args=(command,), name="leash", daemon=True).start()
    code = command.wait()
    _send(command, signal.SIGKILL)  # whatever it left behind in its group
    if code < 0:
        with suppress(OSError):  # of signals whose handling cannot be changed
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _end_with_the_leash() -> None:
    """Ask Linux, in the command's process before it begins, to stop it if this process is killed. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_with_the_app(command: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _send(command, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        command.wait(GRACE_S)
    _send(command, signal.SIGKILL)


def _send(command: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(command.pid, number)


if __name__ == "__main__":
    main()
