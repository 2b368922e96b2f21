"""Turn the theme's colours into Rich styles, for what is drawn in Python rather than by CSS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.style import Style

from quail_audit.tui.theme.files import HEAT_STOPS

if TYPE_CHECKING:
    from textual.app import App

    from quail_audit.schema.figures import Outcome, RuleStanding, State
    from quail_audit.verdict import standings as matrix
    from quail_audit.verdict.comparison import Change


def style(app: App[Any], variable: str, *, bold: bool = False) -> Style:
    """Return the style of text in the colour of a theme variable."""
    return Style(color=app.theme_variables[variable], bold=bold)


def muted_style(app: App[Any]) -> Style:
    return style(app, "muted")


def state_style(app: App[Any], state: State | None) -> Style:
    """Return the style of a layer's state; None: its weights are not finite."""
    return style(app, "error" if state is None else f"state-{state}", bold=state in ("erased", None))


def outcome_style(app: App[Any], outcome: Outcome) -> Style:
    return style(app, f"verdict-{outcome}", bold=True)


def scheme_style(app: App[Any], standing: matrix.SchemeOutcome) -> Style:
    """Return the style of a scheme's verdict, or of what stands in its place."""
    if standing == "unknown":
        return muted_style(app)
    return outcome_style(app, "inconclusive" if standing == "not measured" else standing)


def rule_style(app: App[Any], standing: RuleStanding) -> Style:
    """Return the style of a rule's outcome."""
    colours: dict[RuleStanding, str] = {
        "passed": "pass",
        "failed": "fail",
        "waived": "inconclusive",
        "known": "inconclusive",
    }
    return style(app, f"verdict-{colours[standing]}", bold=True) if standing in colours else muted_style(app)


def heat(app: App[Any], position: float) -> Style:
    """Return the style of readable text on the ramp's colour at a position from 0 (no risk) to 1."""
    stop = round(min(1.0, max(0.0, position)) * (HEAT_STOPS - 1))
    return Style(color=app.theme_variables[f"heat-text-{stop}"], bgcolor=app.theme_variables[f"heat-{stop}"])


def change_style(app: App[Any], standing: Change) -> Style:
    """Return the style of a change for better or worse."""
    colours: dict[Change, str] = {"better": "verdict-pass", "worse": "verdict-fail", "changed": "warning"}
    return style(app, colours.get(standing, "muted"), bold=standing in colours)
