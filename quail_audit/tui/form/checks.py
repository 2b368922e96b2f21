"""Check an audit's choices as they are made, by asking the preflight process.

Its answers are kept. This module knows no widget.
"""

from __future__ import annotations

from collections.abc import Callable

from quail_audit.schema.preflight import (
    AboutCheckpoint,
    AboutData,
    AboutDevices,
    AboutPair,
    AboutPolicy,
    AboutSchemes,
    Answer,
    CheckpointFound,
    Question,
)
from quail_audit.tui.form.choices import TITLES, Choices, is_text, is_whole, named_policy, not_text_problem, usable
from quail_audit.tui.form.preflight import Preflight

CHECKPOINTS = ("original", "unlearned", "retrain")


class Checks:
    """The answers about one form's choices.

    Args:
        preflight: answers the questions.
        choices: returns the choices as they stand in the form.
        on_change: called after an answer has come or gone.

    Attributes:
        found: topic -> its answer; see choices.Found.
    """

    def __init__(self, preflight: Preflight, choices: Callable[[], Choices], on_change: Callable[[], None]) -> None:
        self.found: dict[str, Answer | None] = {}
        self._preflight = preflight
        self._choices = choices
        self._on_change = on_change
        self._pair_asked: Question | None = None

    def check_all(self) -> None:
        """Ask about every choice, and about what this machine offers."""
        self._preflight.ask("schemes", AboutSchemes())
        for topic in TITLES:
            self.check(topic)
        self._preflight.ask("devices", AboutDevices())

    def check(self, topic: str) -> None:
        """Ask about one choice, and about those that are checked together with it."""
        value = self._value(topic)
        if not value:
            self.discard(topic)
        elif not is_text(value):
            self._preflight.forget(topic)
            self.keep(topic, not_text_problem(value))
        else:
            self._preflight.ask(topic, self._question(topic, value))
            self.keep(topic, None)
        if topic == "original":  # its task and labels decide if the data fits
            if self._value("data"):
                self.check("data")
            # an adapter is checked together with its original
            for other in ("unlearned", "retrain"):
                if other in self.found and not is_whole(self.found[other]):
                    self.check(other)

    def discard(self, topic: str) -> None:
        """Drop the answer about a choice that is changing; nothing is kept if it is empty."""
        self._preflight.forget(topic)
        if self._value(topic):
            self.keep(topic, None)
        else:
            self.found.pop(topic, None)
            self._show_change(topic)

    def keep(self, topic: str, answer: Answer | None) -> None:
        """Keep the answer about a topic; None while it is being looked at."""
        self.found[topic] = answer
        self._show_change(topic)

    def _value(self, topic: str) -> str:
        return usable(getattr(self._choices(), topic))

    def _question(self, topic: str, value: str) -> Question:
        if topic == "policy":
            return AboutPolicy(file=named_policy(value))
        base = self._value("original") if topic != "original" else ""
        if topic == "data":
            return AboutData(folder=value, checkpoint=base if is_text(base) and base else None)
        return AboutCheckpoint(source=value, base=base or None)

    def _show_change(self, topic: str) -> None:
        if topic in CHECKPOINTS:
            self._check_pair()
        self._on_change()

    def _check_pair(self) -> None:
        """Ask if the checkpoints fit, once each was looked at and none is left to be fetched."""
        choices = self._choices()
        chosen = [topic for topic in CHECKPOINTS if usable(getattr(choices, topic))]
        asked: Question | None = None
        if {"original", "unlearned"} <= set(chosen) and all(
            isinstance(self.found.get(topic), CheckpointFound) for topic in chosen
        ):
            request = choices.request()
            if request is not None:
                asked = AboutPair(original=request.original, unlearned=request.unlearned, retrain=request.retrain)
        if asked == self._pair_asked and asked is not None:
            return
        self._pair_asked = asked
        if asked is None:
            self._preflight.forget("pair")
            self.found.pop("pair", None)
        else:
            self._preflight.ask("pair", asked)
            self.found["pair"] = None
