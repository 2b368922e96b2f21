"""List the forms that rows have in the files of others, and what each is read as."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from quail_audit.engine.forgetting.data.types import Continuation, Labelled, Passage, QuestionAnswer, Row

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Form(Generic[R]):
    """A form of rows.

    Attributes:
        model: what a row is read as.
        keys: the row's keys, in the order of the model's fields. Other keys are ignored.
        joined: keys whose text, if a row has any, follows the first key's after a line break.
        may_be_plain: whether a row may also be a bare string.
        is_chat: whether the keys hold messages, whose one exchange is the row.
        note: what the report says about this reading; empty if the keys themselves say it.
    """

    model: type[R]
    keys: tuple[str, ...]
    joined: tuple[str, ...] = ()
    may_be_plain: bool = False
    is_chat: bool = False
    note: str = ""

    def __str__(self) -> str:
        return "a string" if self.may_be_plain else "{" + ", ".join(self.keys) + "}"


def _continuations(prompts: str, truths: str) -> tuple[Form[Continuation], ...]:
    return tuple(Form(Continuation, (prompt, truth)) for prompt in prompts.split() for truth in truths.split())


PARAPHRASES = ("paraphrase", "paraphrases", "paraphrased_question", "paraphrased_questions")  # TOFU has the third
ANSWERS = "answer answers response output best_answer"


def _answered(question: str, *, note: str = "", joined: tuple[str, ...] = ()) -> tuple[Form[QuestionAnswer], ...]:
    return tuple(Form(QuestionAnswer, (question, answer), joined, note=note) for answer in ANSWERS.split())


_AS_QUESTION = "read as a question and its answer"
PROMPT_AND_TRUTH = Form(Continuation, ("prompt", "gt"))
PLAIN_TEXT = Form(Passage, ("text",), may_be_plain=True)
CONTINUATIONS: tuple[Form[Continuation], ...] = (
    *_continuations("prompt", "completion gt continuation ground_truth"),
    Form(Continuation, ("prefix", "suffix")),
)
CHATS: tuple[Form[QuestionAnswer], ...] = (
    Form(QuestionAnswer, ("prompt", "completion"), is_chat=True, note=_AS_QUESTION),
    *(
        Form(QuestionAnswer, (key,), is_chat=True, note=_AS_QUESTION)
        for key in ("messages", "conversations", "conversation")
    ),
)
QUESTIONS: tuple[Form[QuestionAnswer], ...] = (
    *_answered("question"),
    *_answered("query"),
    *_answered(
        "instruction",
        joined=("input", "context"),
        note=f"{_AS_QUESTION}; input or context follows the instruction after a line break",
    ),
    *_answered("prompt", note=_AS_QUESTION),
    *_answered("input", note=_AS_QUESTION),
)
TEXTS: tuple[Form[Passage], ...] = tuple(
    Form(Passage, (key,)) for key in ("text", "content", "passage", "document", "sentence")
)
# A row of a split's own file is the first of these whose keys it has.
IN_ORDER: tuple[Form[Any], ...] = (
    CONTINUATIONS[0],
    QUESTIONS[0],
    TEXTS[0],
    *CONTINUATIONS[1:],
    *QUESTIONS[1:],
    *CHATS[1:],
    *TEXTS[1:],
)
BY_MODEL: dict[type[Row], tuple[Form[Any], ...]] = {
    Continuation: CONTINUATIONS,
    QuestionAnswer: (*QUESTIONS, *CHATS),
    Passage: TEXTS,
}
TEXT_COLUMNS = ("text", "tweet", "content", "passage", "document", "sentence")
LABEL_COLUMNS = ("label",)


@dataclass(frozen=True)
class Columns:
    """The names of the text and the label columns; None: those of TEXT_COLUMNS, of LABEL_COLUMNS."""

    text: str | None = None
    label: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Names to look for, in this order."""
        return TEXT_COLUMNS if self.text is None else (self.text,)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names to look for, in this order."""
        return LABEL_COLUMNS if self.label is None else (self.label,)

    def form_of(self, found: Collection[str]) -> Form[Labelled] | None:
        """Return the form of rows with these keys; None if the text or the label is missing."""
        text = next((name for each in self.texts if (name := find_key(each, found)) is not None), None)
        label = next((name for each in self.labels if (name := find_key(each, found)) is not None), None)
        return None if text is None or label is None or text == label else Form(Labelled, (text, label))

    def __str__(self) -> str:
        texts = self.texts[:2]  # the others are in the documentation
        return f"{{{' or '.join(texts)}, {' or '.join(self.labels)}}}"


def find_key(key: str, found: Collection[str]) -> str | None:
    """Return the key as a row spells it: exactly, else in the one other case or with the one other space around it."""
    if key in found:
        return key
    alike = [name for name in found if len(name) <= 2 * len(key) and name.strip().casefold() == key.casefold()]
    return alike[0] if len(alike) == 1 else None


def match_form(forms: Iterable[Form[R]], found: Collection[str]) -> tuple[Form[R], dict[str, str]] | None:
    """Return the first form whose keys a row has, and the row's own spelling of each; None if it has those of none."""
    for form in forms:
        names = {key: find_key(key, found) for key in form.keys}
        if all(name is not None for name in names.values()):
            names |= {key: find_key(key, found) for key in form.joined}
            return form, {key: name for key, name in names.items() if name is not None}
    return None
