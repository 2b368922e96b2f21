"""The live view of a run on a terminal: layers measured, scores as they run, progress with remaining time."""

import time

from rich.console import Console, RenderableType
from rich.live import Live

from quail_audit.cli.progress import cure as curing
from quail_audit.cli.progress import training
from quail_audit.cli.progress.audit import view
from quail_audit.runs.state import AnyState
from quail_audit.runs.state.cure import CureState
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.lines import Event

REFRESHES_PER_SECOND = 8


class LiveView:
    """Shows a run's state and leaves the screen clean when it ends: the report that follows says it all again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, event: Event, state: AnyState) -> None:
        """Show one event; state has it already."""
        self._live.update(_Screen(state))


class _Screen:
    """Built when Rich draws, not at every event; between events the clock goes on."""

    def __init__(self, state: AnyState) -> None:
        self._state = state
        self._seen_s = time.monotonic()

    def __rich__(self) -> RenderableType:
        since_s = time.monotonic() - self._seen_s
        if isinstance(self._state, TrainingState):
            return training.view(self._state, since_last_event_s=since_s)
        if isinstance(self._state, CureState):
            return curing.view(self._state, since_last_event_s=since_s)
        return view(self._state, since_last_event_s=since_s)
