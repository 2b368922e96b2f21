"""The app's side of preflight, against processes that answer, die, hang or talk nonsense."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from quail_audit.schema.preflight import AboutCheckpoint, AboutSchemes, Answer, NotYetKnown, Problem, SchemesFound
from quail_audit.tui.form.preflight import Preflight

# Answers "ID: what was asked" after as many seconds as the source says: "0.5 name".
ECHO = """
import json, sys, time
for line in sys.stdin:
    source = json.loads(line)["source"]
    time.sleep(float(source.split()[0]))
    print(json.dumps({"kind": "not yet known", "message": source}), flush=True)
"""
DIES = "import sys; sys.stdin.readline(); sys.exit('no [memory] \\x1b[31mleft')"
NONSENSE = "import sys\nfor line in sys.stdin: print('Loading checkpoint shards: 100%', flush=True)"
DIES_ONCE = """
import json, pathlib, sys
mark = pathlib.Path(sys.argv[1])
line = sys.stdin.readline()
if not mark.exists():
    mark.touch()
    sys.exit(3)
print(json.dumps({"kind": "not yet known", "message": json.loads(line)["source"]}), flush=True)
sys.stdin.read()
"""
ANSWERS_WHEN_TOLD = """
import json, os, sys, time
for line in sys.stdin:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    print(json.dumps({"kind": "not yet known", "message": json.loads(line)["source"]}), flush=True)
"""
HANGS_UP_WHEN_TOLD = """
import os, sys, time
sys.stdin.readline()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os.close(1)
time.sleep(60)
"""


class Talk:
    """A Preflight whose answers and notes are kept."""

    def __init__(self, code: str, *arguments: str, answer_s: float = 20.0) -> None:
        self.answers: list[tuple[str, Answer]] = []
        self.notes: list[str] = []
        self.preflight = Preflight(
            lambda topic, answer: self.answers.append((topic, answer)),
            self.notes.append,
            command=(sys.executable, "-c", code, *arguments),
            answer_s=answer_s,
        )

    def ask(self, topic: str, source: str) -> None:
        self.preflight.ask(topic, AboutCheckpoint(source=source))

    async def answering(self) -> psutil.Process:
        """What answers, once it has been started."""
        await until(lambda: self.preflight.process_id)
        return psutil.Process(self.preflight.process_id)

    def messages(self) -> list[tuple[str, str]]:
        return [(topic, answer.message) for topic, answer in self.answers if isinstance(answer, NotYetKnown | Problem)]


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_nothing_runs_before_the_first_question() -> None:
    talk = Talk(ECHO)
    assert talk.preflight.process_id is None
    talk.ask("original", "0 a")
    await until(lambda: talk.answers)
    assert talk.preflight.process_id is not None
    await talk.preflight.rest()
    assert talk.preflight.process_id is None


@pytest.mark.asyncio
async def test_answers_find_their_topics() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "0 a")
    talk.ask("unlearned", "0 b")
    await until(lambda: len(talk.answers) == 2)
    assert talk.messages() == [("original", "0 a"), ("unlearned", "0 b")]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_only_the_newest_question_of_a_topic_counts() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "0.3 being answered")
    await until(lambda: talk.preflight.process_id)
    await asyncio.sleep(0.1)
    talk.ask("original", "60 never asked")
    talk.ask("original", "0 newest")
    await until(lambda: talk.answers)
    assert talk.messages() == [("original", "0 newest")]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_a_forgotten_topic_is_not_answered() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "0.2 forgotten")
    talk.ask("data", "0 kept")
    await until(lambda: talk.preflight.process_id)
    talk.preflight.forget("original")
    await until(lambda: talk.answers)
    await asyncio.sleep(0.1)
    assert talk.messages() == [("data", "0 kept")]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_the_loop_goes_on_while_an_answer_is_awaited() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "0.5 slow")
    turns = 0
    while not talk.answers:
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 5, "a loop that waited for the answer would have turned once or twice"
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_a_process_that_dies_is_started_once_more(tmp_path: Path) -> None:
    talk = Talk(DIES_ONCE, str(tmp_path / "mark"))
    talk.ask("original", "a")
    await until(lambda: talk.answers)
    assert talk.messages() == [("original", "a")]
    assert talk.notes == ["the process that checks choices ended: exit code 3"]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_one_that_dies_again_is_a_problem_that_says_how() -> None:
    talk = Talk(DIES)
    talk.ask("original", "a")
    await until(lambda: talk.answers)
    ((topic, answer),) = talk.answers
    assert topic == "original"
    assert isinstance(answer, Problem)
    assert "ended twice (exit code 1: no [memory] \\x1b[31mleft)" in answer.message
    assert len(talk.notes) == 2
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_one_that_is_killed_is_started_again_for_the_next_question() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "0 a")
    await until(lambda: talk.answers)
    first = talk.preflight.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    talk.ask("original", "0 b")
    await until(lambda: len(talk.answers) == 2)
    assert talk.messages()[1] == ("original", "0 b")
    assert talk.preflight.process_id != first
    assert "SIGKILL" in talk.notes[0]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_one_that_hangs_is_ended_and_the_next_question_is_answered() -> None:
    talk = Talk(ECHO, answer_s=1.0)
    talk.ask("original", "60 hangs")
    talk.ask("data", "0 b")
    await until(lambda: len(talk.answers) == 2)
    assert "no answer in 1 s" in talk.messages()[0][1]
    assert talk.messages()[1] == ("data", "0 b")
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_nonsense_is_a_problem() -> None:
    talk = Talk(NONSENSE)
    talk.ask("original", "a")
    await until(lambda: talk.answers)
    assert isinstance(talk.answers[0][1], Problem)
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_a_command_that_cannot_be_started_is_a_problem() -> None:
    answers: list[Answer] = []
    preflight = Preflight(lambda _, answer: answers.append(answer), command=("/no/such/python",))
    preflight.ask("original", AboutCheckpoint(source="a"))
    await until(lambda: answers)
    assert isinstance(answers[0], Problem)
    await preflight.rest()


@pytest.mark.asyncio
async def test_resting_ends_it_in_the_middle_of_an_answer_and_it_works_again_after() -> None:
    talk = Talk(ECHO)
    talk.ask("original", "60 long")
    process = await talk.answering()
    await talk.preflight.rest()
    assert not process.is_running()
    assert talk.answers == []
    talk.ask("original", "0 again")
    await until(lambda: talk.answers)
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_what_was_not_answered_before_a_rest_is_answered_when_it_goes_on(tmp_path: Path) -> None:
    talk = Talk(ANSWERS_WHEN_TOLD, str(tmp_path / "mark"))
    talk.ask("original", "in hand")
    talk.ask("unlearned", "waiting")
    talk.ask("data", "forgotten")
    await until(lambda: talk.preflight.process_id)
    await talk.preflight.rest()
    talk.preflight.forget("data")
    (tmp_path / "mark").touch()
    talk.preflight.resume()
    await until(lambda: len(talk.answers) == 2)
    assert talk.messages() == [("original", "in hand"), ("unlearned", "waiting")]
    await talk.preflight.rest()
    talk.preflight.resume()  # there is nothing to ask, and so nothing to start
    assert talk.preflight.process_id is None


@pytest.mark.asyncio
async def test_what_is_asked_while_it_goes_to_rest_is_answered_by_another_process(tmp_path: Path) -> None:
    talk = Talk(ANSWERS_WHEN_TOLD, str(tmp_path / "mark"))
    talk.ask("original", "in hand")
    process = await talk.answering()
    resting = asyncio.create_task(talk.preflight.rest())
    await asyncio.sleep(0)
    assert talk.preflight.process_id is None  # let go of, and not over yet
    (tmp_path / "mark").touch()
    talk.ask("unlearned", "meanwhile")
    await until(lambda: len(talk.answers) == 2)
    await resting
    assert not process.is_running()
    assert talk.messages() == [("original", "in hand"), ("unlearned", "meanwhile")]
    await talk.preflight.rest()


@pytest.mark.asyncio
async def test_resting_ends_a_process_that_is_just_being_given_up(tmp_path: Path) -> None:
    talk = Talk(HANGS_UP_WHEN_TOLD, str(tmp_path / "mark"))
    talk.ask("original", "a")
    process = await talk.answering()
    (tmp_path / "mark").touch()
    await until(lambda: talk.preflight.process_id != process.pid)  # it has hung up, and is given time to end
    await talk.preflight.rest()
    assert not process.is_running()


@pytest.mark.asyncio
async def test_the_real_process_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('imported from the folder the app was started in')")
    monkeypatch.chdir(tmp_path)
    answers: dict[str, Answer] = {}
    preflight = Preflight(answers.__setitem__)
    preflight.ask("schemes", AboutSchemes())
    preflight.ask("original", AboutCheckpoint(source="/no/such/folder"))
    await until(lambda: len(answers) == 2, limit_s=60)
    assert isinstance(answers["schemes"], SchemesFound)
    assert isinstance(answers["original"], Problem)
    await preflight.rest()
