"""Read the app's colour themes from TOML files, shipped and the user's own.

A file needs only its name; missing colours are derived from the given ones, so that text stays readable.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, ValidationError
from pydantic_core import PydanticCustomError
from textual.color import BLACK, WHITE, Color, ColorParseError, Lab, lab_to_rgb, rgb_to_lab
from textual.theme import Theme

from quail_audit.core.errors import BadInputError
from quail_audit.core.reading import read_toml, refuse_unknown
from quail_audit.core.untrusted import printable
from quail_audit.core.values import Value
from quail_audit.schema.figures import Outcome, State

DEFAULT_THEME = "quail-dark"
SHIPPED_NAMES = ("quail-dark", "quail-light", "quail-contrast", "quail-colourblind")
HEAT_STOPS = 9
PLOT_SERIES = 6
READABLE = 4.5  # WCAG 2.2, success criterion 1.4.3: contrast of text with its background
MOST_USER_THEMES = 50


def contrast(one: str, other: str) -> float:
    """Return WCAG 2's contrast ratio of two colours, 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@lru_cache(maxsize=4096)
def _luminance(colour: str) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in Color.parse(colour).normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@lru_cache(maxsize=4096)
def mix(one: str, other: str, share: float) -> str:
    """Return the colour at a share (0 to 1) of the way between two, in CIE Lab, where equal steps look equal."""
    if share <= 0.0 or share >= 1.0:  # exactly: the way through Lab may be off by one
        return other if share >= 1.0 else one
    start, end = rgb_to_lab(Color.parse(one)), rgb_to_lab(Color.parse(other))
    between = Lab(*(a + (b - a) * share for a, b in zip(start, end, strict=True)))
    return lab_to_rgb(between).clamped.hex6.lower()


def readable(colour: str, on: str, least: float = READABLE) -> str:
    """Return the colour, moved toward white or black as far as text in it must be to be readable there."""
    toward = max((WHITE.hex6, BLACK.hex6), key=lambda end: contrast(end, on))
    tries = (mix(colour, toward, step / 20) for step in range(21))
    return next((found for found in tries if contrast(found, on) >= least), toward.lower())


def _colour(text: str) -> str:
    """Return an opaque colour as #rrggbb. The terminal's own colours are refused: their look is unknown."""
    try:
        colour = Color.parse(text) if len(text) <= 64 and not text.startswith("auto") else None
    except (ColorParseError, ValueError) as error:
        near = getattr(error, "suggested_color", None)
        raise PydanticCustomError(
            "colour",
            "'{text}' is not a colour{mend}",
            {"text": printable(text, limit=40), "mend": f"; did you mean {near}?" if near else ""},
        ) from error
    if colour is None or colour.ansi is not None or colour.a != 1.0:
        raise PydanticCustomError(
            "colour", "'{text}' is not an opaque colour such as #7db0e8", {"text": printable(text, limit=40)}
        )
    return colour.hex6.lower()


Colour = Annotated[str, AfterValidator(_colour)]
Known = dict[str, Any]  # the fields before this one, from which a missing one is derived


def _dark_or_light(dark: str, light: str) -> Any:
    return Field(default_factory=lambda known: dark if known["dark"] else light)


def _field_from(derive: Callable[[Known], object]) -> Any:
    return Field(default_factory=derive)


def _readable_mix(known: Known, one: str, other: str, share: float) -> str:
    return readable(mix(known[one], known[other], share), known["panel"])


def _default_series(known: Known) -> tuple[str, ...]:
    dark = ("#7db0e8", "#6cc79b", "#e8b75c", "#ff8078", "#c3a6f2", "#c2ccd9")
    light = ("#1b5fa6", "#1a6e48", "#855300", "#b3261e", "#6b46b0", "#4a5566")
    return tuple(readable(colour, known["panel"]) for colour in (dark if known["dark"] else light))


class QuailTheme(Value):
    """One theme, every colour an opaque #rrggbb. The order of the fields is the order in which defaults are derived."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]  # Textual makes a style class of it
    dark: StrictBool = True

    background: Colour = _dark_or_light("#0f141b", "#eef1f4")
    foreground: Colour = _dark_or_light("#d8dfe9", "#1b2430")
    primary: Colour = _dark_or_light("#7db0e8", "#1b5fa6")
    surface: Colour = _field_from(lambda known: mix(known["background"], known["foreground"], 0.04))
    panel: Colour = _field_from(lambda known: mix(known["background"], known["foreground"], 0.09))
    secondary: Colour = _field_from(lambda known: _readable_mix(known, "primary", "foreground", 0.5))
    accent: Colour = _field_from(lambda known: known["primary"])
    success: Colour = _field_from(lambda known: readable("#6cc79b" if known["dark"] else "#1a6e48", known["panel"]))
    warning: Colour = _field_from(lambda known: readable("#e8b75c" if known["dark"] else "#855300", known["panel"]))
    error: Colour = _field_from(lambda known: readable("#ff8078" if known["dark"] else "#b3261e", known["panel"]))
    muted: Colour = _field_from(lambda known: _readable_mix(known, "foreground", "background", 0.35))
    border: Colour = _field_from(lambda known: mix(known["panel"], known["foreground"], 0.25))  # without the focus
    cursor_background: Colour = _field_from(lambda known: mix(known["background"], known["primary"], 0.2))
    cursor_foreground: Colour = _field_from(lambda known: readable(known["foreground"], known["cursor_background"]))

    cursor_reverse: StrictBool = (
        False  # swap the two, and every text's colour with its ground: as readable, more striking
    )

    heat_ramp: Annotated[tuple[Colour, ...], Field(min_length=2, max_length=32)] = _field_from(
        lambda known: (known["panel"], mix(known["panel"], known["error"], 0.5), known["error"])
    )  # from no risk to the highest
    untouched: Colour = _field_from(lambda known: known["muted"])
    carried: Colour = _field_from(lambda known: known["success"])
    drowned: Colour = _field_from(lambda known: known["warning"])
    erased: Colour = _field_from(lambda known: known["error"])
    verdict_pass: Colour = _field_from(lambda known: known["success"])
    verdict_fail: Colour = _field_from(lambda known: known["error"])
    verdict_inconclusive: Colour = _field_from(lambda known: known["warning"])
    series: Annotated[tuple[Colour, ...], Field(min_length=PLOT_SERIES, max_length=PLOT_SERIES)] = _field_from(
        _default_series
    )

    def heat_stops(self) -> tuple[tuple[str, str], ...]:
        """Nine backgrounds from no risk to the highest, each with a text colour readable on it."""
        return _heat_stops(self.heat_ramp, self.foreground, self.background)

    def heat(self, position: float) -> tuple[str, str]:
        """Return background and text colour at a place on the ramp, 0 (no risk) to 1, clipped to that range.

        The ramp has nine steps, so that text is readable on every one.

        Raises:
            ValueError: the position is NaN. An unknown value has no place on the ramp.
        """
        if math.isnan(position):
            raise ValueError("not a position on the ramp: nan")
        return self.heat_stops()[round(min(1.0, max(0.0, position)) * (HEAT_STOPS - 1))]

    def state(self, state: State) -> str:
        """Return the text colour of a layer's state."""
        colours: dict[State, str] = {
            "untouched": self.untouched,
            "carried": self.carried,
            "drowned": self.drowned,
            "erased": self.erased,
        }
        return colours[state]

    def verdict(self, outcome: Outcome) -> str:
        """Return the text colour of a verdict."""
        colours: dict[Outcome, str] = {
            "pass": self.verdict_pass,
            "fail": self.verdict_fail,
            "inconclusive": self.verdict_inconclusive,
        }
        return colours[outcome]

    def as_textual(self) -> Theme:
        """Return the theme for App.register_theme, with variables()."""
        return Theme(
            name=self.name,
            dark=self.dark,
            primary=self.primary,
            secondary=self.secondary,
            accent=self.accent,
            foreground=self.foreground,
            background=self.background,
            surface=self.surface,
            panel=self.panel,
            success=self.success,
            warning=self.warning,
            error=self.error,
            variables=self.variables(),
        )

    def variables(self) -> dict[str, str]:
        """Return Quail's style variables, and those of Textual that would be hard to read.

        App.get_theme_variable_defaults returns the default theme's, so that styles work under any theme.
        """
        own = {
            "muted": self.muted,
            **{f"heat-{stop}": background for stop, (background, _) in enumerate(self.heat_stops())},
            **{f"heat-text-{stop}": text for stop, (_, text) in enumerate(self.heat_stops())},
            "state-untouched": self.untouched,
            "state-carried": self.carried,
            "state-drowned": self.drowned,
            "state-erased": self.erased,
            "verdict-pass": self.verdict_pass,
            "verdict-fail": self.verdict_fail,
            "verdict-inconclusive": self.verdict_inconclusive,
            **{f"plot-{number}": colour for number, colour in enumerate(self.series, start=1)},
        }
        return own | self._textual_variables()

    def _textual_variables(self) -> dict[str, str]:
        blurred = mix(self.panel, self.foreground, 0.06)
        washes = {
            f"{name}-muted": mix(self.background, getattr(self, name), 0.18)
            for name in ("primary", "secondary", "accent", "success", "warning", "error")
        }
        return washes | {
            "text-muted": self.muted,
            "text-disabled": self.muted,  # also an input's placeholder, which must be readable
            "foreground-muted": self.muted,
            "block-cursor-background": self.cursor_background,
            "block-cursor-foreground": self.cursor_foreground,
            "block-cursor-text-style": "bold reverse" if self.cursor_reverse else "bold",
            "block-cursor-blurred-background": blurred,
            "block-cursor-blurred-foreground": readable(self.foreground, blurred),
            "block-hover-background": mix(self.surface, self.foreground, 0.06),
            "border": self.primary,
            "border-blurred": self.border,
            "surface-active": mix(self.surface, self.foreground, 0.05),
            "scrollbar": mix(self.panel, self.foreground, 0.2),
            "scrollbar-hover": mix(self.panel, self.foreground, 0.35),
            "scrollbar-active": self.primary,
            "scrollbar-background": self.background,
            "input-selection-background": self.cursor_background,
            "input-selection-foreground": self.cursor_foreground,
            "screen-selection-background": self.cursor_background,
            "screen-selection-foreground": self.cursor_foreground,
            "link-color": self.primary,
            "link-background-hover": self.cursor_background,
            "link-color-hover": self.cursor_foreground,
            "button-color-foreground": readable(self.background, self.primary),
            "accent-darken-1": self.cursor_background,  # a table's header above the cursor, written on in $foreground
        }


@lru_cache(maxsize=64)
def _heat_stops(ramp: tuple[str, ...], foreground: str, background: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (colour, _text_on(colour, foreground, background))
        for colour in (_colour_at(ramp, stop / (HEAT_STOPS - 1)) for stop in range(HEAT_STOPS))
    )


def _colour_at(ramp: tuple[str, ...], position: float) -> str:
    place = position * (len(ramp) - 1)
    before = min(int(place), len(ramp) - 2)
    return mix(ramp[before], ramp[before + 1], place - before)


def _text_on(colour: str, foreground: str, background: str) -> str:
    """Return the theme's text or background colour if one is readable, else white or black, of which one is."""
    for pair in ((foreground, background), (WHITE.hex6.lower(), BLACK.hex6.lower())):
        best = max(pair, key=lambda text: contrast(text, colour))
        if contrast(best, colour) >= READABLE:
            return best
    raise AssertionError("black or white is readable on every colour")


# Tables of a theme's file: the key there -> the field here.
_TABLES: dict[str, dict[str, str]] = {
    "colors": {
        name: name
        for name in (
            *("primary", "secondary", "accent", "foreground", "muted", "background", "surface", "panel"),
            *("success", "warning", "error", "border"),
        )
    },
    "cursor": {"background": "cursor_background", "foreground": "cursor_foreground", "reverse": "cursor_reverse"},
    "heat": {"ramp": "heat_ramp"},
    "states": {name: name for name in ("untouched", "carried", "drowned", "erased")},
    "verdict": {"pass": "verdict_pass", "fail": "verdict_fail", "inconclusive": "verdict_inconclusive"},
    "plot": {"series": "series"},
}


def read_theme(path: str | Path) -> QuailTheme:
    """Read the theme in a TOML file.

    Raises:
        BadInputError: not a file, unreadable, too large, not TOML, an unknown key (with a suggestion), or a wrong
            kind of value.
    """
    where = printable(str(path))
    if not Path(path).is_file():  # a pipe would block forever
        raise BadInputError("there is no such file", where=where)
    document = read_toml(path, "theme")
    refuse_unknown(document, {"name", "dark", *_TABLES}, where=where, what="key")
    fields: dict[str, object] = {key: document[key] for key in document if key not in _TABLES}
    for title, keys in _TABLES.items():
        table = document.get(title, {})
        if not isinstance(table, dict):
            raise BadInputError(f"[{title}] must be a table", where=where)
        refuse_unknown(table, keys, where=where, what=f"key in [{title}]")
        fields |= {keys[key]: value for key, value in table.items()}
    try:
        return QuailTheme.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        mend = _NAME_RULE if field == "name" else ""
        raise BadInputError(f"{_key_of(field)}: {first['msg']}", where=where, mend=mend) from error


_NAME_RULE = 'Begin the file with name = "my-theme": a letter, then up to 39 letters, digits, - and _'


def _key_of(field: str) -> str:
    """Return a field's name as the file spells it."""
    spelt = (f"[{title}] {key}" for title, keys in _TABLES.items() for key, name in keys.items() if name == field)
    return next(spelt, field)


def shipped_folder() -> Path:
    """Return the folder of the shipped themes: in an installed package, or at the top of a checkout.

    Raises:
        BadInputError: they are in neither: the installation is damaged.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "themes", package.parent / "themes"):
        if (folder / f"{DEFAULT_THEME}.toml").is_file():
            return folder
    raise BadInputError("the themes are missing", where=str(package), mend="Install Quail again")


def find_themes(user_folder: Path | None) -> tuple[tuple[QuailTheme, ...], tuple[BadInputError, ...]]:
    """Read the shipped themes, then the *.toml of the user's folder by name; return them and the problems of the rest.

    The app must start whatever the files contain, so a broken file is a problem, not an error, and the default theme
    needs no file. A theme whose name is taken is left out.
    """
    themes: dict[str, QuailTheme] = {}
    problems: list[BadInputError] = []
    paths: list[Path] = []
    try:
        paths = [shipped_folder() / f"{name}.toml" for name in SHIPPED_NAMES]
    except BadInputError as error:
        problems.append(error)
        themes[DEFAULT_THEME] = QuailTheme(name=DEFAULT_THEME)
    try:
        paths += _user_paths(user_folder) if user_folder is not None else []
    except BadInputError as error:
        problems.append(error)
    for path in paths:
        try:
            theme = read_theme(path)
            if theme.name in themes:
                raise BadInputError(
                    f"there is already a theme named {theme.name}", where=printable(str(path)), mend="Give it another"
                )
            themes[theme.name] = theme
        except BadInputError as error:
            problems.append(error)
    return tuple(themes.values()), tuple(problems)


def _user_paths(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml") if folder.is_dir() else []
    except OSError as error:
        raise BadInputError(
            f"cannot read the folder of themes: {error.strerror}", where=printable(str(folder))
        ) from error
    if len(paths) > MOST_USER_THEMES:
        raise BadInputError(
            f"{len(paths)} themes are too many: at most {MOST_USER_THEMES} can be read, so none was",
            where=printable(str(folder)),
            mend="Move some away",
        )
    return paths
