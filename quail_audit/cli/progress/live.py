"""Show a run of any kind live on a terminal."""

import time

from rich.console import Console, RenderableType
from rich.live import Live

from quail_audit.cli.progress import audit, cure, training
from quail_audit.runs.state import AnyState
from quail_audit.runs.state.cure import CureState
from quail_audit.runs.state.training import TrainingState
from quail_audit.schema.events.lines import Event

REFRESHES_PER_SECOND = 8


class LiveView:
    """Shows a run's state, and clears it when the run ends: the report follows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, event: Event, state: AnyState) -> None:
        """Show one event, which the state holds already."""
        self._live.update(_Screen(state))


class _Screen:
    """Builds the view when Rich draws, not at every event; between events the clock goes on."""

    def __init__(self, state: AnyState) -> None:
        self._state = state
        self._seen_s = time.monotonic()

    def __rich__(self) -> RenderableType:
        since_s = time.monotonic() - self._seen_s
        if isinstance(self._state, TrainingState):
            return training.view(self._state, since_last_event_s=since_s)
        if isinstance(self._state, CureState):
            return cure.view(self._state, since_last_event_s=since_s)
        return audit.view(self._state, since_last_event_s=since_s)
