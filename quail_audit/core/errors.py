"""Define the errors a user can meet, each with its exit code.

Every error says what is wrong, where, and how to mend it. Any exception that is not a QuailError is a bug in Quail. The
verdict's own exit codes are in verdict/checks.py.
"""

from typing import ClassVar

from quail_audit.core.untrusted import printable

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_ENVIRONMENT = 4
EXIT_INCONCLUSIVE = 5
EXIT_INTERRUPTED = 130


class QuailError(Exception):
    """Something the user can mend. Its texts are made printable, as they may quote a file.

    Args:
        message: what is wrong, in one sentence.
        where: the file, folder, layer or option it is about; empty if the message says it.
        mend: what to do about it, in one sentence or one command.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_ENVIRONMENT

    def __init__(self, message: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.message = printable(message)
        self.where = printable(where)
        self.mend = printable(mend)

    def __str__(self) -> str:
        return ". ".join(
            part.rstrip(".")
            for part in (f"{self.where}: {self.message}" if self.where else self.message, self.mend)
            if part
        )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class UsageError(QuailError):
    """An invalid option or argument (exit 2)."""

    kind = "usage"
    exit_code = EXIT_USAGE


class BadInputError(QuailError):
    """A checkpoint, data file or policy that cannot be used (exit 3)."""

    kind = "bad input"
    exit_code = EXIT_BAD_INPUT


class EnvironmentProblemError(QuailError):
    """Something missing on this machine: a backend, a device, memory, disk, the network (exit 4)."""

    kind = "environment"
    exit_code = EXIT_ENVIRONMENT


class InterruptedRunError(QuailError):
    """The user stopped the run (exit 130)."""

    kind = "interrupted"
    exit_code = EXIT_INTERRUPTED
