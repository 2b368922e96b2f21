"""Resume a run: replay recorded events and require the new ones to match them.

An event that is said again has to be the recorded one, except for times, and the recorded one stands.
"""

from collections.abc import Iterator

from quail_audit.core.errors import BadInputError
from quail_audit.schema.events.audit import ArmFinished, FilesAwaited, FilesFound, RunStarted, SampleScored
from quail_audit.schema.events.lines import Event, Events, to_line


class RecordedEvents:
    """The recorded events of a run, in order, as far as they have not been said again.

    Args:
        events: without the end of the run.
    """

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._next = next(events, None)
        self.at_s = 0.0  # of the last one passed on
        self.is_over = False  # True once an event is said that was not recorded

    def replay_until(self, event: Event) -> Iterator[Event]:
        """Yield the records up to an event that is said again, that one included; all that is left if it was not.

        Records that need not be said again are passed on as they stand: samples of an arm that was done, which are not
        scored again, and how far the hashing of files was, which differs each time.

        Raises:
            BadInputError: another event was recorded in its place.
        """
        while self._next is not None:
            known = self._next
            same = _untimed_line(known) == _untimed_line(event)
            if not same and isinstance(event, FilesAwaited):
                return
            if not same and (not isinstance(known, SampleScored | FilesAwaited) or isinstance(event, SampleScored)):
                raise BadInputError(
                    f"the audit does not go on as it began: {difference(known, event)}",
                    mend="Checkpoints, data, policy, Quail or the machine changed since: start the audit anew",
                )
            yield self._pass_on(known)
            if same:
                return
        self.is_over = True

    def replay_rest(self) -> Events:
        """Yield the records that are left."""
        while self._next is not None:
            yield self._pass_on(self._next)

    def _pass_on(self, known: Event) -> Event:
        self.at_s = max(self.at_s, known.at_s)
        self._next = next(self._events, None)
        return known


def _untimed_line(event: Event) -> str:
    untimed: dict[str, object] = {"at_s": 0.0}
    if isinstance(event, RunStarted):
        untimed["started"] = ""
    if isinstance(event, ArmFinished):
        untimed["elapsed_s"] = 0.0
    return to_line(event.model_copy(update=untimed))


def difference(known: Event, event: Event) -> str:
    """Return how an event differs from the one that was recorded in its place, in words."""
    if type(known) is not type(event):
        return f"{known.type} was recorded where it now says {event.type}"
    if isinstance(known, FilesFound) and isinstance(event, FilesFound):
        before_it = set(known.files)
        other = next((found for found in event.files if found not in before_it), None)
        return "a file is gone" if other is None else f"{other.path} of the {other.role} was written to since"
    before, now = known.model_dump(), event.model_dump()
    if isinstance(known, RunStarted) and isinstance(event, RunStarted):
        before, now = before | known.environment, now | event.environment
    changed = [name for name in before if name not in ("at_s", "environment") and before[name] != now.get(name)]
    name = changed[0] if changed else "its values"
    if not changed or any(isinstance(each.get(name), dict | list | tuple) for each in (before, now)):
        return f"{known.type} says another {name.replace('_', ' ')}"
    return f"{name.replace('_', ' ')} was {str(before[name])[:80]}, and is {str(now.get(name))[:80]}"
