"""The app's side of preflight.py: asks a process of its own about choices, and hands each answer over as it comes.

Of the questions about one topic only the newest counts: one that was replaced while it waited is never asked, and the
answer to one that was replaced while it was being answered is dropped. Where the process is ended to make room, what
it had not answered is asked again later. Knows no widget.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from quail_audit.core.untrusted import printable
from quail_audit.schema.preflight import Answer, Problem, Question, answer_of
from quail_audit.tui.live.child import TAIL_BYTES, how_it_ended

# -P: the folder the app was started in is no place to import from.
COMMAND = (sys.executable, "-P", "-m", "quail_audit.engine.preflight")
ANSWER_S = 120.0  # a folder on a network that hangs would hold up every other question
TRIES = 2
LEAVING_S = 1.0  # a process that has closed its output is about to be gone, and then says why
LONGEST_LINE_BYTES = 1 << 22


class Preflight:
    """Questions and their answers. Starts its process at the first question; everything runs in the app's event loop.

    Args:
        hand_over: called with a topic and the answer to its newest question.
        note: called with a sentence for the log where the process ended by itself.
        command: what answers.
        answer_s: how long an answer may take, in seconds; then the process is ended and the answer says so.
    """

    def __init__(
        self,
        hand_over: Callable[[str, Answer], object],
        note: Callable[[str], None] = lambda _: None,
        *,
        command: Sequence[str] = COMMAND,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._hand_over = hand_over
        self._note = note
        self._command = command
        self._answer_s = answer_s
        self._unanswered: dict[str, Question] = {}  # topic -> what was asked last, the longest waiting first
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: IO[bytes] | None = None

    @property
    def process_id(self) -> int | None:
        """Of the process that answers; None while there is none."""
        return None if self._process is None else self._process.pid

    def ask(self, topic: str, question: Question) -> None:
        """Ask this about the topic, instead of what was asked about it before."""
        self._unanswered[topic] = question
        self.go_on()

    def go_on(self) -> None:
        """Ask what is still unanswered after a rest."""
        if self._unanswered and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._converse(), name="preflight")

    def forget(self, topic: str) -> None:
        """Ask nothing about the topic any more, and drop what is still to come."""
        self._unanswered.pop(topic, None)

    async def rest(self) -> None:
        """End the process, which holds some hundred megabytes. The next question, or go_on, starts it anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        await self._end()  # lets go of the process at once, so that what is asked meanwhile gets another
        if task is not None:
            with suppress(asyncio.CancelledError):
                await task

    async def _converse(self) -> None:
        while self._unanswered:
            topic, question = next(iter(self._unanswered.items()))
            found = await self._answer(question)
            if self._unanswered.get(topic) is question:
                del self._unanswered[topic]
                self._hand_over(topic, found)

    async def _answer(self, question: Question) -> Answer:
        """The answer, from a new process where the first one ends; where that ends too, how it ended."""
        ended = ""
        for _ in range(TRIES):
            try:
                process = await self._running()
                async with asyncio.timeout(self._answer_s):
                    return await _converse_once(process, question)
            except TimeoutError:
                await self._end()
                return Problem(
                    message=f"could not be checked: no answer in {self._answer_s:.0f} s",
                    mend="The audit may still read it; is it on a network that hangs?",
                )
            except (OSError, ValueError) as error:  # it has ended, could not be started, or speaks nonsense
                ended = await self._end(LEAVING_S) or printable(str(error), limit=200)
                self._note(f"the process that checks choices ended: {ended}")
        return Problem(
            message=f"could not be checked: the process that does has ended twice ({ended})",
            mend="The audit checks it too; the log has what the process said",
        )

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._stderr,
                limit=LONGEST_LINE_BYTES,
                start_new_session=True,  # Ctrl-C in the terminal is the app's
            )
        return self._process

    async def _end(self, wait_s: float = 0.0) -> str:
        """End the process; how it ended and the last it said, where it ends by itself in so many seconds."""
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        said = ""
        try:
            if process is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await process.wait()
                if process.returncode is not None and stderr is not None:
                    said = ": ".join(filter(None, (how_it_ended(process.returncode), _last_line(stderr))))
        finally:  # also where the conversation is cancelled
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if stderr is not None:
                stderr.close()
        return said


async def _converse_once(process: asyncio.subprocess.Process, question: Question) -> Answer:
    """Raises OSError where the process ends, ValueError where its line is no answer."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(question.model_dump_json().encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise BrokenPipeError("it closed its output")
    return answer_of(line)


def _last_line(stderr: IO[bytes]) -> str:
    size = os.fstat(stderr.fileno()).st_size
    said = os.pread(stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
    return printable(said.strip().rpartition("\n")[2], limit=300)
