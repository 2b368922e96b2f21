"""An audit says how questions are asked, and refuses a chat template that it was told to use, before it measures."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.forgetting.models import chat_templates
from quail_audit.schema.events.audit import DataRead, PairOpened, Planned
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from tests.engine.forgetting.models.test_chat_templates import CHAT_ML, ONE_TURN, render_in_this_process
from tests.support.tiny_audits import request

REFUSES = "{{ raise_exception('no chats \x1b[31m') }}"
QUESTIONS = [{"question": f"Who was it, {n}?", "answer": "Tavi"} for n in range(3)]


@pytest.fixture(autouse=True)
def render_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "_render", render_in_this_process)


@pytest.fixture
def asking(world: Path, tmp_path: Path) -> Path:
    """The tiny world with questions; its tokenizers have no template yet."""
    shutil.copytree(world, tmp_path / "world")
    shutil.rmtree(tmp_path / "world/data")
    (tmp_path / "world/data").mkdir()
    ask(tmp_path / "world", QUESTIONS)
    return tmp_path / "world"


def ask(world: Path, rows: list[dict[str, Any]]) -> None:
    (world / "data/forget.json").write_text(json.dumps(rows))


def give(world: Path, original: str | None, unlearned: str | None) -> None:
    for name, template in (("original", original), ("blank", unlearned)):
        if template is not None:
            (world / name / "chat_template.jinja").write_text(template)


def until_planned(events: Iterator[Event]) -> list[Event]:
    found: list[Event] = []
    with closing(events) as coming:  # type: ignore[type-var]
        for event in coming:
            found.append(event)
            if isinstance(event, Planned):
                break
    return found


def notes(world: Path, **changes: object) -> list[str]:
    events = until_planned(audit(request(world, **changes), "run"))
    return [event.message for event in events if isinstance(event, Noted)]


def said(world: Path, **changes: object) -> list[str]:
    return [note for note in notes(world, **changes) if note.startswith("questions were asked")]


def test_nothing_is_said_of_questions_asked_as_the_data_has_them(asking: Path) -> None:
    assert said(asking) == []


def test_a_template_is_used_and_said(asking: Path) -> None:
    give(asking, CHAT_ML, CHAT_ML)
    assert said(asking) == ["questions were asked raw and through the chat template"]
    assert said(asking, prompt_format="chat") == ["questions were asked through the chat template"]
    assert said(asking, prompt_format="raw") == ["questions were asked raw; the chat template was not to be used"]
    ask(asking, [*QUESTIONS[:2], QUESTIONS[2] | {"paraphrase": "By whom?"}])
    found = notes(asking)
    assert "forget.json: 2 of 3 questions have no paraphrase, and are asked fewer ways" in found
    assert "questions were asked raw, by their paraphrases and through the chat template" in found


def test_a_template_on_one_side_is_said_and_decides(asking: Path) -> None:
    """The unlearned model is asked fewer ways than the original: nobody can tell that it forgot."""
    give(asking, CHAT_ML, None)
    events = until_planned(audit(request(asking), "run"))
    (note,) = said(asking)
    assert note.startswith("questions were asked raw and through the chat template; ")
    assert note.endswith("blank was not: its tokenizer has no chat template that can be used")
    (opened,) = (event for event in events if isinstance(event, PairOpened))
    deciding = [each for each in opened.differences if each.decides]
    assert [each.name for each in deciding] == ["tokenizer: 3 of 3 questions are put otherwise by the chat template"]
    for same in ({"prompt_format": "raw"}, {"tokenizer": "original"}):
        events = until_planned(audit(request(asking, **same), "run"))
        (opened,) = (event for event in events if isinstance(event, PairOpened))
        assert not any(each.decides for each in opened.differences)
    assert said(asking, tokenizer="original") == ["questions were asked raw and through the chat template"]


def test_a_template_that_raises_is_left_out_or_refused(asking: Path) -> None:
    give(asking, CHAT_ML, REFUSES)
    assert said(asking)[0].startswith("questions were asked raw and through the chat template; ")
    with pytest.raises(BadInputError) as error:
        said(asking, prompt_format="chat")
    assert error.value.message == (
        "questions cannot be put through the chat template: it raises TemplateError: no chats \\x1b[31m"
    )
    assert error.value.where == str(asking / "blank")
    give(asking, ONE_TURN, ONE_TURN)
    assert said(asking, prompt_format="chat") == ["questions were asked through the chat template"]


def test_no_template_is_refused_if_only_chats_are_asked(asking: Path) -> None:
    with pytest.raises(BadInputError, match="the tokenizer has no chat template"):
        said(asking, prompt_format="chat")


def test_the_format_counts_only_for_questions(world: Path) -> None:
    assert said(world, prompt_format="chat") == []


def test_the_population_leaves_with_the_data(asking: Path) -> None:
    def population(**changes: object) -> dict[str, int]:
        events = until_planned(audit(request(asking, **changes), "run"))
        (read,) = (event for event in events if isinstance(event, DataRead))
        return read.population

    assert population() == {}
    assert population(population=48)["knowmem_forget"] == 48
    (asking / "data/population.json").write_text('"all"')
    assert population(max_samples=1)["knowmem_forget"] == 3
    with pytest.raises(UsageError, match="2 items in all"):
        population(population=2)
