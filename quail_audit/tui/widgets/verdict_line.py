"""Show the current sample while a run is measured, and its verdict when it is over."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.tui.live.run import LiveRun
from quail_audit.tui.theme import palette
from quail_audit.tui.words.endings import why_it_stopped

PROMPT_CHARACTERS = 40


class VerdictLine(Static):
    """At most three lines."""

    _shown: Text | None = None

    def show(self, run: LiveRun, scheme: str) -> None:
        """Draw what is known now, with the reasons for this scheme."""
        state = run.state
        if state.verdict is not None:
            text = self._verdict(run, scheme)
        elif state.end is not None or run.is_over:
            text = self._failure(run)
        else:
            text = self._doing(run)
        if text != self._shown:
            # One line while it is measured; only the end may take more, which moves what is above.
            self.update(text, layout=state.end is not None or run.is_over)
            self._shown = text

    def _verdict(self, run: LiveRun, scheme: str) -> Text:
        verdict = run.state.verdict
        assert verdict is not None  # noqa: S101 - the caller asked
        reasons = [reason.message for reason in verdict.reasons]
        if run.state.verdicts:
            failure, own = run.state.failures.get(scheme), run.state.verdicts.get(scheme)
            reasons = [reason.message for reason in own.reasons] if own is not None else []
            if failure is not None:
                reasons = [f"{scheme} could not be measured: {failure.message}. {failure.mend}"]
        if len(run.schemes) > 1:
            request = run.request
            weights_only = request is not None and request.data is None
            holds = wording.holds_at_line(run.formats(), weights_only=weights_only)
            reasons.insert(1, holds)  # before other reasons, which may be many
        text = Text.assemble(
            (f" {wording.OUTCOME_MARKS[verdict.outcome]}", palette.outcome_style(self.app, verdict.outcome)), "  "
        )
        text.append(printable("; ".join(reasons)))
        return text

    def _failure(self, run: LiveRun) -> Text:
        message, mend = why_it_stopped(run)
        mark = wording.unjudged_mark(run.state.end.exit_code if run.state.end is not None else None)
        text = Text.assemble((f" {mark}", palette.style(self.app, "error", bold=True)), f"  {printable(message)}")
        text.append(f"\n   {printable(mend)}", style=palette.muted_style(self.app))
        return text

    def _doing(self, run: LiveRun) -> Text:
        state = run.state
        text = Text(" ", style=palette.muted_style(self.app), no_wrap=True, overflow="ellipsis")
        if state.awaiting is not None:
            text.append(wording.hashing_line(state.awaiting))
        elif state.last_sample is not None:
            sample = state.last_sample
            text.append(f"{sample.arm} · {wording.metric_title(sample.metric)} · {sample.done} of {sample.total} · ")
            text.append(f"{sample.score:.1f}  …{printable(sample.prompt[-PROMPT_CHARACTERS:])} → ")
            text.append(printable(sample.answer, limit=400))
        elif state.arms:
            text.append(f"{list(state.arms)[-1]}: the first samples are being answered")
        elif state.quantizing_now is not None:
            text.append(printable(wording.quantizing_line(*state.quantizing_now, state.at_s)))
        elif state.plan is not None:
            text.append(f"{state.layers_done} of {state.plan.layers} layers measured")
        elif state.started is not None:
            text.append("opening the checkpoints")
        else:
            text.append("starting")
        return text
