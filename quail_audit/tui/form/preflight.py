"""Ask the preflight process about choices, and hand over each answer as it comes.

Only the newest question about a topic counts: one that was replaced while it waited is never asked, and its answer is
dropped if it was already asked. If the process is ended to free memory, open questions are asked again later. The
process itself is engine/preflight.py.
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

# -P: import nothing from the folder that the app was started in.
COMMAND = (sys.executable, "-P", "-m", "quail_audit.engine.preflight")
ANSWER_S = 120.0  # a hanging network folder must not hold up every other question
TRIES = 2
LEAVING_S = 1.0  # a process that has closed its output ends soon, and then says why
LONGEST_LINE_BYTES = 1 << 22


class Preflight:
    """Questions and their answers. Starts the process at the first question; runs in the app's event loop.

    Args:
        hand_over: called with a topic and the answer to its newest question.
        note: called with a sentence for the log if the process ended by itself.
        command: starts the process.
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
        """The id of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def ask(self, topic: str, question: Question) -> None:
        """Ask this about the topic, in place of any earlier question."""
        self._unanswered[topic] = question
        self.resume()

    def resume(self) -> None:
        """Ask again what was not answered before a rest."""
        if self._unanswered and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._converse(), name="preflight")

    def forget(self, topic: str) -> None:
        """Drop the question about the topic, and its answer if one still comes."""
        self._unanswered.pop(topic, None)

    async def rest(self) -> None:
        """End the process, which holds some hundred megabytes. The next question, or resume, starts a new one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        await self._end_process()  # drops the process at once, so that new questions start another
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
        """Return the answer; if the process ends, ask a new one, and if that ends too, say how."""
        ended = ""
        for _ in range(TRIES):
            try:
                process = await self._ensure_process()
                async with asyncio.timeout(self._answer_s):
                    return await _ask_once(process, question)
            except TimeoutError:
                await self._end_process()
                return Problem(
                    message=f"could not be checked: no answer in {self._answer_s:.0f} s",
                    mend="The audit may still read it; is its network drive hanging?",
                )
            except (OSError, ValueError) as error:  # it has ended, could not be started, or speaks nonsense
                ended = await self._end_process(LEAVING_S) or printable(str(error), limit=200)
                self._note(f"the process that checks choices ended: {ended}")
        return Problem(
            message=f"could not be checked: the process for it ended twice ({ended})",
            mend="The audit checks it too; the log has what the process printed",
        )

    async def _ensure_process(self) -> asyncio.subprocess.Process:
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

    async def _end_process(self, wait_s: float = 0.0) -> str:
        """End the process; return its exit and last line if it ends by itself within wait_s seconds."""
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        ending = ""
        try:
            if process is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await process.wait()
                if process.returncode is not None and stderr is not None:
                    ending = ": ".join(filter(None, (how_it_ended(process.returncode), _last_line(stderr))))
        finally:  # also if the conversation is cancelled
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if stderr is not None:
                stderr.close()
        return ending


async def _ask_once(process: asyncio.subprocess.Process, question: Question) -> Answer:
    """Ask and read one answer. Raises OSError if the process ends, ValueError if its line is no answer."""
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
    tail = os.pread(stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
    return printable(tail.strip().rpartition("\n")[2], limit=300)
