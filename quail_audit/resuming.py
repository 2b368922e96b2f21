"""A run that goes on: the events it recorded before it stopped, held against those it says again.

What goes on must be what was begun. So every event that is said again has to be the recorded one, but for times, and
the recorded one stands. Not here: the run's folder (runs.py), and what is not measured again (journal.py).
"""

from collections.abc import Generator, Iterator

from quail_audit.errors import BadInputError
from quail_audit.events import ArmFinished, Event, RunStarted, SampleScored, to_line


class Recorded:
    """The recorded events of a run, in order, as far as they have not been said again.

    Args:
        events: without the end of the run.
    """

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self.at_s = 0.0  # of the last one passed on
        self.is_over = False  # whether an event was said that was not recorded

    def until(self, event: Event) -> Iterator[Event]:
        """What was recorded up to an event that is said again, that one included; all that is left if it was not.

        Samples of an arm that was done are not scored again, so they are passed on where something else is said.

        Raises:
            BadInputError: another event was recorded in its place.
        """
        for known in self.rest():
            same = _without_times(known) == _without_times(event)
            if not same and (not isinstance(known, SampleScored) or isinstance(event, SampleScored)):
                raise BadInputError(
                    f"the audit does not go on as it began: {_difference(known, event)}",
                    mend="Checkpoints, data, policy, Quail or the machine changed since: start the audit anew",
                )
            yield known
            if same:
                return
        self.is_over = True

    def rest(self) -> Generator[Event, None, None]:
        """What is left."""
        for known in self._events:
            self.at_s = max(self.at_s, known.at_s)
            yield known


def _without_times(event: Event) -> str:
    untimed: dict[str, object] = {"at_s": 0.0}
    if isinstance(event, RunStarted):
        untimed["started"] = ""
    if isinstance(event, ArmFinished):
        untimed["elapsed_s"] = 0.0
    return to_line(event.model_copy(update=untimed))


def _difference(known: Event, event: Event) -> str:
    if type(known) is not type(event):
        return f"{known.type} was recorded where it now says {event.type}"
    before, now = known.model_dump(), event.model_dump()
    if isinstance(known, RunStarted) and isinstance(event, RunStarted):
        before, now = before | known.environment, now | event.environment
    changed = [name for name in before if name not in ("at_s", "environment") and before[name] != now.get(name)]
    name = changed[0] if changed else "its values"
    if not changed or any(isinstance(each.get(name), dict | list | tuple) for each in (before, now)):
        return f"{known.type} says another {name.replace('_', ' ')}"
    return f"{name.replace('_', ' ')} was {str(before[name])[:80]}, and is {str(now.get(name))[:80]}"
