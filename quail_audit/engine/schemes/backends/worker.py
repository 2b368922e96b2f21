"""Run one job of a backend in a process of its own.

`python -m quail_audit.engine.schemes.backends.worker JOB FD` does the job and writes messages to FD.
What the library prints goes to standard output and error, which nobody reads unless it crashes.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quail_audit.engine.schemes.backends.messages import Done, Failed, Job, LayerStarted, Message


class MessageWriter:
    """The channel on which a backend says what it is doing, from any of its threads."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # nor may what the library starts keep it open
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._failed = False

    @property
    def layer(self) -> str:
        """The layer that this thread works on."""
        return getattr(self._of_thread, "layer", "")

    def __call__(self, message: Message) -> None:
        with self._lock:
            self._stream.write(message.model_dump_json() + "\n")
            self._stream.flush()

    def watch(self, plain: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        """Wrap a method of the library so that it first reports which layer it is called for.

        Args:
            plain: the method.
            name_of: the layer's name, from the method's arguments.
        """

        def reporting(*args: Any, **kwargs: Any) -> Any:
            self._of_thread.layer = name = name_of(*args, **kwargs)
            self(LayerStarted(name=name))
            try:
                return plain(*args, **kwargs)
            except Exception as error:
                self.report_failure(error)  # at once: some libraries end the process when a thread of theirs fails
                raise

        return reporting

    def report_failure(self, error: Exception) -> None:
        """Report that the job failed, the first time only."""
        if self._failed:
            return
        self._failed = True
        first = next(iter(str(error).strip().splitlines()), "")
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
        self(Failed(layer=self.layer, message=said, hessian="LinAlgError" in type(error).__name__))


def main() -> None:
    """Do the job of the arguments; exit with 1 if it fails."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    report = MessageWriter(int(sys.argv[2]))
    try:
        importlib.import_module(job.backend).quantize(job, report)
    except Exception as error:  # a library may fail in any way
        import traceback

        traceback.print_exc()
        report.report_failure(error)
        sys.exit(1)
    report(Done())


if __name__ == "__main__":
    main()
