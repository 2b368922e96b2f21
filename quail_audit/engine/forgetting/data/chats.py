"""Take the one exchange out of a chat's messages: a question and its answer."""

from __future__ import annotations

from collections.abc import Mapping

ROLES: Mapping[str, str] = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}


class NoExchangeError(ValueError):
    """Messages that are not one question and one answer; its text says why.

    Attributes:
        turns: whether there are several exchanges, of which the first could be taken.
    """

    def __init__(self, why: str, *, turns: bool = False) -> None:
        super().__init__(why)
        self.turns = turns


def is_chat(value: object) -> bool:
    """Tell whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and _role(turn) for turn in value)


def single_question(messages: list[Mapping[str, object]]) -> str | None:
    """Return the text of a chat that is one user's message and no more; None if it is another."""
    try:
        return _text(messages[0]) if len(messages) == 1 and _role(messages[0]) == "user" else None
    except NoExchangeError:
        return None


def read_exchange(messages: object) -> tuple[str, str, str]:
    """Return the question, the answer, and the system's text, which may be empty.

    Raises:
        NoExchangeError: there is not one user's message and then one assistant's.
    """
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise NoExchangeError("is not a list of messages")
    said: list[tuple[str, str]] = []
    system: list[str] = []
    for turn in messages:
        role = _role(turn)
        if role is None:
            raise NoExchangeError(f"has a message whose role is none of {', '.join(sorted(ROLES))}")
        text = _text(turn)
        if role == "system":
            system.append(text)
        else:
            said.append((role, text))
    roles = [role for role, _ in said]
    if roles == ["user", "assistant"]:
        return said[0][1], said[1][1], "\n".join(system).strip()
    if "assistant" not in roles:
        raise NoExchangeError("has no assistant's message, so there is no answer to hold the model's to")
    several = roles[:2] == ["user", "assistant"]
    raise NoExchangeError(
        f"has {len(said)} messages of user and assistant; one question and its answer are needed", turns=several
    )


def _role(turn: Mapping[str, object]) -> str | None:
    role = turn.get("role", turn.get("from"))
    return ROLES.get(role.casefold()) if isinstance(role, str) else None


def _text(turn: Mapping[str, object]) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    raise NoExchangeError("has a message that is not text alone")
