"""Say why a run ended without its result, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass

from quail_audit.schema.events.common import RunFailed
from quail_audit.tui.live.child import how_it_ended
from quail_audit.tui.live.followed import Followed

OUT_OF_MEMORY_KILL = -9


@dataclass(frozen=True)
class RunKind:
    """The words for one kind of run.

    Attributes:
        result: what it ended without.
        process: what ended.
        kept: what is left of it.
        again: how to get the result after all.
        memory: what to try if memory ran out.
    """

    result: str
    process: str
    kept: str
    again: str
    memory: str


AUDIT = RunKind(
    result="a verdict",
    process="the process that measured",
    kept="what was measured is shown and kept",
    again="press Ctrl+G to resume",
    memory="try a smaller --batch-size or --dtype bfloat16",
)
TRAINING = RunKind(
    result="its checkpoint",
    process="the process that trained",
    kept="its steps, and the checkpoints it had saved, are kept",
    again="start it again",
    memory="try a smaller batch size or fewer layers",
)
CURE = RunKind(
    result="a result",
    process="its process",
    kept="what was found is kept",
    again="start it again",
    memory="choose fewer layers, or give a smaller --batch-size",
)


def why_it_stopped(run: Followed, kind: RunKind = AUDIT) -> tuple[str, str]:
    """Return why a run has no result, and what can be done about it. Both may contain untrusted text."""
    end = run.state.end
    if isinstance(end, RunFailed):
        place = f"{end.where}: " if end.where else ""
        mend = end.mend or f"{_capital(kind.kept)}, in the run's folder; {kind.again}"
        return f"{end.kind}, exit code {end.exit_code}: {place}{end.message}", mend
    if run.problem is not None:
        return run.problem, "What was read before that is shown"
    code = run.child.exit_code if run.child is not None else None
    if code is None:
        return (
            f"the run ended without {kind.result}: its process was killed or its machine went away",
            f"{_capital(kind.kept)}; {kind.again}",
        )
    lines = run.child.errors().strip().splitlines() if run.child is not None else []
    last = f": {lines[-1]}" if lines else ""
    mend = (
        f"Killed from outside, most often because memory ran out: {kind.memory}"
        if code == OUT_OF_MEMORY_KILL
        else f"Ctrl+L shows everything it printed; {kind.kept}"
    )
    return f"{kind.process} ended: {how_it_ended(code)}{last}", mend


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
