import os
import re
import tomllib
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.widgets import (
    Button,
    Checkbox,
    Collapsible,
    DataTable,
    Footer,
    Header,
    Input,
    Label,
    Markdown,
    OptionList,
    RadioButton,
    Select,
    SelectionList,
    Static,
    TabbedContent,
    TabPane,
    TextArea,
    Tree,
)
from textual.widgets.option_list import Option

import quail_audit.tui.theme.files as themes_module
from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.schema.figures import State
from quail_audit.tui.theme.files import (
    DEFAULT_THEME,
    HEAT_STOPS,
    MOST_USER_THEMES,
    SHIPPED_NAMES,
    QuailTheme,
    find_themes,
    read_theme,
    shipped_folder,
)
from tests.support.places import ROOT
from tests.support.wcag_contrast import (
    COLOUR_VISION,
    Rgb,
    contrast,
    difference,
    lightness,
    linear,
    luminance,
    over,
    rgb,
    seen_with,
)

SHIPPED = {theme.name: theme for theme in find_themes(None)[0]}
STATES: tuple[State, ...] = ("untouched", "carried", "drowned", "erased")

TEXTS = (
    *("foreground", "muted", "primary", "secondary", "accent", "success", "warning", "error"),
    *("text-muted", "text-disabled", "foreground-muted", "link-color", "footer-key-foreground", "footer-foreground"),
    *("text-primary", "text-secondary", "text-accent", "text-success", "text-warning", "text-error"),
    *(f"state-{state}" for state in STATES),
    *("verdict-pass", "verdict-fail", "verdict-inconclusive"),
    *(f"plot-{number}" for number in range(1, 7)),
    *(f"markdown-h{level}-color" for level in range(1, 7)),
)
GROUNDS = (
    *("background", "surface", "panel", "surface-active", "surface-lighten-1", "panel-lighten-1"),
    *("footer-background", "block-cursor-background", "block-cursor-blurred-background", "block-hover-background"),
)
PAIRS = (
    ("block-cursor-foreground", "block-cursor-background"),
    ("block-cursor-blurred-foreground", "block-cursor-blurred-background"),
    ("input-cursor-foreground", "input-cursor-background"),
    ("input-selection-foreground", "input-selection-background"),
    ("screen-selection-foreground", "screen-selection-background"),
    ("link-color-hover", "link-background-hover"),
    ("foreground", "accent-darken-1"),
    ("button-foreground", "surface"),
    ("button-foreground", "surface-darken-1"),
    ("footer-description-foreground", "footer-background"),
    *(("button-color-foreground", ground) for ground in ("primary", "success", "warning", "error")),
    *(("button-color-foreground", f"{ground}-darken-2") for ground in ("primary", "success", "warning")),
    ("button-color-foreground", "error-darken-1"),
    *((f"text-{name}", f"{name}-muted") for name in ("primary", "secondary", "accent", "success", "warning", "error")),
    *(("foreground", f"{name}-muted") for name in ("primary", "secondary", "accent", "success", "warning", "error")),
)


def least(name: str) -> float:
    return 7.0 if name == "quail-contrast" else 4.5


def resolved(theme: QuailTheme) -> dict[str, str]:
    """What a style sheet gets for each variable: as App.get_css_variables merges them."""
    textuals = theme.as_textual()
    return {**textuals.to_color_system().generate(), **textuals.variables}


def write(folder: Path, text: str | bytes, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_reference_agrees_with_cases_worked_out_elsewhere() -> None:
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21.0)
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.48, abs=0.005)  # the grey that just fails
    assert lightness(rgb("#777777")) == pytest.approx(50.03, abs=0.01)
    for rows in COLOUR_VISION.values():  # white stays white
        assert [sum(row) for row in rows] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


def test_four_themes_come_with_quail_the_default_first() -> None:
    themes, problems = find_themes(None)
    assert tuple(theme.name for theme in themes) == SHIPPED_NAMES
    assert SHIPPED_NAMES[0] == DEFAULT_THEME
    assert not problems
    assert {path.stem for path in shipped_folder().iterdir()} == set(SHIPPED_NAMES)


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_text_is_readable_on_every_surface(theme: QuailTheme, ground: str) -> None:
    values = resolved(theme)
    low = {
        text: round(contrast(rgb(values[text]), rgb(values[ground])), 2)
        for text in TEXTS
        if contrast(rgb(values[text]), rgb(values[ground])) < least(theme.name)
    }
    assert not low


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_texts_are_readable_on_cursors_buttons_and_labels(theme: QuailTheme) -> None:
    values = resolved(theme)
    low = [pair for pair in PAIRS if contrast(*(rgb(values[name]) for name in pair)) < least(theme.name)]
    assert not low


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_automatic_text_is_readable(theme: QuailTheme) -> None:
    """$text is "auto 87%": white on what Textual takes for dark, else black."""
    values = resolved(theme)
    assert values["text"] == "auto 87%"
    for ground in ("background", "surface", "panel", "panel-lighten-1", "primary-muted", "error-muted"):
        on = rgb(values[ground])
        text: Rgb = (1.0, 1.0, 1.0) if luminance(on) < 0.18 else (0.0, 0.0, 0.0)
        assert contrast(over(text, 0.87, on), on) >= least(theme.name)


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_what_has_the_focus_is_seen(theme: QuailTheme) -> None:
    """WCAG 2.2, 1.4.11: 3:1 for the border of what has the focus."""
    values = resolved(theme)
    for ground in ("background", "surface", "panel"):
        assert contrast(rgb(values["border"]), rgb(values[ground])) >= 3.0
    assert contrast(rgb(values["border-blurred"]), rgb(values["surface"])) >= 1.8


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_every_step_of_the_ramp_has_a_readable_text(theme: QuailTheme) -> None:
    values = resolved(theme)
    for stop in range(HEAT_STOPS):
        ground, text = values[f"heat-{stop}"], values[f"heat-text-{stop}"]
        assert (ground, text) == theme.heat(stop / (HEAT_STOPS - 1))
        assert contrast(rgb(ground), rgb(text)) >= least(theme.name)


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_the_ramps_lightness_alone_tells_the_order(theme: QuailTheme) -> None:
    levels = [lightness(rgb(ground)) for ground, _ in theme.heat_stops()]
    steps = [after - before for before, after in pairwise(levels)]
    assert all(step > 1.0 for step in steps) or all(step < -1.0 for step in steps)
    assert abs(levels[-1] - levels[0]) > 50


def test_the_colour_blind_ramp_climbs_evenly_under_every_vision() -> None:
    stops = [rgb(ground) for ground, _ in SHIPPED["quail-colourblind"].heat_stops()]
    assert all(7 < after - before < 15 for before, after in pairwise(map(lightness, stops)))
    for vision in COLOUR_VISION:
        seen = [seen_with(vision, stop) for stop in stops]
        assert all(difference(before, after) > 7 for before, after in pairwise(seen))


@pytest.mark.parametrize("vision", COLOUR_VISION)
@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
def test_states_and_verdicts_differ_under_every_vision(theme: QuailTheme, vision: str) -> None:
    """By Delta E 1976 of 20 in the theme made for it, 8 in the others, where marks and words tell them apart too."""
    limit = 20.0 if theme.name == "quail-colourblind" else 8.0
    for colours in (
        [theme.state(state) for state in STATES],
        [theme.verdict("pass"), theme.verdict("fail"), theme.verdict("inconclusive")],
    ):
        for one, other in combinations(colours, 2):
            assert difference(seen_with(vision, rgb(one)), seen_with(vision, rgb(other))) >= limit, (one, other)
    for one, other in combinations(theme.series, 2):
        assert difference(seen_with(vision, rgb(one)), seen_with(vision, rgb(other))) >= 8.0, (one, other)


def test_states_differ_for_normal_vision() -> None:
    for theme in SHIPPED.values():
        for one, other in combinations(STATES, 2):
            assert difference(linear(rgb(theme.state(one))), linear(rgb(theme.state(other)))) >= 25.0


class Everything(App[None]):
    """Textual's widgets in one column, as an app of ours may show them."""

    # Textual writes these in its foreground at 25 to 50 %, which no variable reaches; the app's style sheet must, too.
    CSS = """
    Tab { color: $muted; }
    SelectCurrent Static#label, SelectCurrent .arrow { color: $muted; }
    DataTable, OptionList, Tree { height: 6; }
    Horizontal { height: auto; }
    """
    BINDINGS = (("q", "quit", "Quit"),)

    def __init__(self, theme: QuailTheme) -> None:
        super().__init__()
        self.quail = theme
        self.register_theme(theme.as_textual())
        self.theme = theme.name

    def compose(self) -> ComposeResult:
        yield Header()
        for flat in (False, True):
            with Horizontal():
                yield from (Button(kind, variant=kind, flat=flat) for kind in BUTTONS)
        with Horizontal():
            yield from (Label(kind, variant=kind) for kind in LABELS)
        yield Input(placeholder="placeholder")
        yield Input("value")
        yield Select([("one", 1)], prompt="choose")
        yield Checkbox("check", value=True, id="check")
        yield RadioButton("radio")
        yield OptionList(*(Option(Text(state, style=self.quail.state(state))) for state in STATES))
        table: DataTable[str | Text] = DataTable(zebra_stripes=True, cursor_type="row")
        table.add_columns("layer", "state")
        for state in STATES:
            table.add_row(state, Text(state, style=self.quail.state(state)))
        yield table
        tree: Tree[None] = Tree("root")
        tree.root.expand().add("child")
        yield tree
        with TabbedContent():
            yield TabPane(
                "first", Markdown("# one\n## two\n### three\n###### six\n`code` [link](x)\n\n> quote\n\n- item")
            )
            yield TabPane("second", Static("second"))
        yield TextArea("text")
        yield SelectionList(("selection", 1, True))
        yield Collapsible(Static("inside"), title="collapsible", collapsed=False)
        yield Footer()


BUTTONS = ("default", "primary", "success", "warning", "error")
LABELS = ("primary", "secondary", "success", "warning", "error", "accent")


def words_on_screen(app: App[None]) -> Iterator[tuple[str, Rgb, Rgb]]:
    """Every run of text as it reaches the terminal, with its colour and its ground. Marks and lines are no text.

    Nor is X, the mark of a check box, which tells its state by being there.
    """
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            if segment.text.strip() != "X" and any(character.isalnum() for character in segment.text):
                assert segment.style is not None
                assert segment.style.color is not None
                assert segment.style.bgcolor is not None
                text, ground = segment.style.color.get_truecolor(), segment.style.bgcolor.get_truecolor()
                yield segment.text.strip(), rgb(text.hex), rgb(ground.hex)


@pytest.mark.parametrize("theme", SHIPPED.values(), ids=SHIPPED)
@pytest.mark.asyncio
async def test_every_word_that_reaches_the_terminal_is_readable(theme: QuailTheme) -> None:
    app = Everything(theme)
    seen: set[str] = set()
    async with app.run_test(size=(120, 130), notifications=True) as pilot:
        for severity in ("information", "warning", "error"):
            app.notify(f"a toast of {severity}", severity=severity)
        for _ in range(len(app.screen.focus_chain)):
            await pilot.press("tab")
            for word, text, ground in words_on_screen(app):
                assert contrast(text, ground) >= least(theme.name), (word, app.focused)
                seen.add(word)
    for word in ("placeholder", "choose", "second", "erased", "a toast of error", "▼ collapsible", "Quit"):
        assert word in seen


def test_our_variables_are_all_there_and_the_defaults_cover_them() -> None:
    names = [set(theme.variables()) for theme in SHIPPED.values()]
    assert all(name == names[0] for name in names)
    assert all(rgb(value) for key, value in SHIPPED[DEFAULT_THEME].variables().items() if "style" not in key)


def test_a_name_is_enough_and_gives_readable_colours(tmp_path: Path) -> None:
    for dark in ("true", "false"):
        theme = read_theme(write(tmp_path, f'name = "bare"\ndark = {dark}\n'))
        values = resolved(theme)
        for text in TEXTS:
            for ground in ("background", "surface", "panel"):
                assert contrast(rgb(values[text]), rgb(values[ground])) >= 4.5, (dark, text, ground)


colours = st.tuples(*[st.integers(0, 255)] * 3).map(lambda parts: "#{:02x}{:02x}{:02x}".format(*parts))


@given(background=colours, foreground=colours, primary=colours, ramp=st.lists(colours, min_size=2, max_size=12))
def test_whatever_the_colours_derived_text_is_readable(
    background: str, foreground: str, primary: str, ramp: list[str]
) -> None:
    theme = QuailTheme.model_validate(
        {"name": "any", "background": background, "foreground": foreground, "primary": primary, "heat_ramp": ramp}
    )
    for text in (theme.muted, theme.secondary, theme.success, theme.erased, *theme.series):
        assert contrast(rgb(text), rgb(theme.panel)) >= 4.5
    assert contrast(rgb(theme.cursor_foreground), rgb(theme.cursor_background)) >= 4.5
    for ground, text in theme.heat_stops():
        assert contrast(rgb(ground), rgb(text)) >= 4.5


def test_the_ends_of_the_ramp_are_the_files_and_beyond_them_is_the_end() -> None:
    theme = QuailTheme(name="ramp", heat_ramp=("#000000", "#ffffff"))
    assert [theme.heat(position)[0] for position in (-1.0, 0.0, 1.0, 7.0)] == ["#000000"] * 2 + ["#ffffff"] * 2
    assert lightness(rgb(theme.heat(0.5)[0])) == pytest.approx(50.0, abs=1.0)  # halfway to the eye, not in numbers
    with pytest.raises(ValueError, match="nan"):
        theme.heat(float("nan"))


def test_colours_are_read_in_every_spelling_of_an_opaque_one(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[colors]\nprimary = "#ABC"\nerror = "rgb(1, 2, 3)"\nwarning = "gold"\n')
    theme = read_theme(path)
    assert (theme.primary, theme.error, theme.warning) == ("#aabbcc", "#010203", "#ffd700")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name: Field required. Begin the file with name"),
        ('name = "a b"\n', "letters, digits"),
        ('name = "\\u001b[2J"\n', "letters, digits"),
        (f'name = "{"a" * 41}"\n', "letters, digits"),
        ("name = 3\n", "name: Input should be a valid string"),
        ('name = "a"\ndark = "yes"\n', "dark: Input should be a valid boolean"),
        ('name = "a"\ncolours = 3\n', "Did you mean colors?"),
        ('name = "a"\ncolors = 3\n', "[colors] must be a table"),
        ('name = "a"\n[colors]\nprimry = "#fff"\n', "unknown key in [colors] 'primry'. Did you mean primary?"),
        ('name = "a"\n[colors]\n"\\u001b[2J" = "#fff"\n', r"'\x1b[2J'"),
        ('name = "a"\n[colors]\nprimary = "bleu"\n', "[colors] primary: 'bleu' is not a colour; did you mean blue?"),
        ('name = "a"\n[colors]\nprimary = 3\n', "[colors] primary: Input should be a valid string"),
        ('name = "a"\n[colors]\nprimary = "#ffffff80"\n', "not an opaque colour"),
        ('name = "a"\n[colors]\nprimary = "auto"\n', "not an opaque colour"),
        ('name = "a"\n[colors]\nprimary = "transparent"\n', "not an opaque colour"),
        ('name = "a"\n[colors]\nprimary = "ansi_red"\n', "not an opaque colour"),
        (f'name = "a"\n[states]\nerased = "{"f" * 5000}"\n', "[states] erased: 'fff"),
        ('name = "a"\n[heat]\nramp = ["#fff"]\n', "[heat] ramp: Tuple should have at least 2 items"),
        ('name = "a"\n[heat]\nramp = ["#fff", "no"]\n', "[heat] ramp: 'no' is not a colour"),
        ('name = "a"\n[plot]\nseries = ["#fff"]\n', "[plot] series: Tuple should have at least 6 items"),
        ('name = "a"\n[colors\n', "the theme is not valid TOML"),
        ("name = " + "9" * 5000, "the theme is not valid TOML"),
        (b"\xff\xfe", "the theme is not valid TOML"),
        ("#" * 70_000, "the theme is over 64 KiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_theme_is_explained(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        read_theme(path)
    assert said in str(caught.value)
    assert caught.value.where == str(path)
    assert len(str(caught.value)) < 600
    assert printable(str(caught.value)) == str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.mktemp("theme"), b'name = "x"\n' + data)
    try:
        assert isinstance(read_theme(path), QuailTheme)
    except BadInputError:
        pass


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("pipe.toml", "folder.toml", "none.toml", "null\0.toml"):
        with pytest.raises(BadInputError):
            read_theme(tmp_path / name)


def test_users_themes_follow_and_broken_ones_are_reported(tmp_path: Path) -> None:
    write(tmp_path, 'name = "second"\n', "b.toml")
    write(tmp_path, 'name = "first"\n', "a.toml")
    write(tmp_path, 'name = "first"\ndark = false\n', "c.toml")
    write(tmp_path, 'name = "quail-dark"\n', "d.toml")
    write(tmp_path, "name = \n", "e\x1b.toml")
    write(tmp_path, "not a theme\n", "notes.txt")
    themes, problems = find_themes(tmp_path)
    assert [theme.name for theme in themes] == [*SHIPPED_NAMES, "first", "second"]
    assert SHIPPED[DEFAULT_THEME] in themes
    assert next(theme for theme in themes if theme.name == "first").dark
    said = [str(problem) for problem in problems]
    assert all(part in text for part, text in zip(("named first", "named quail-dark", "TOML"), said, strict=True))
    assert all(printable(text) == text for text in said)


def test_too_many_or_no_users_themes(tmp_path: Path) -> None:
    assert find_themes(tmp_path / "none") == (tuple(SHIPPED.values()), ())
    for number in range(MOST_USER_THEMES + 1):
        write(tmp_path, f'name = "t{number}"\n', f"{number}.toml")
    themes, (problem,) = find_themes(tmp_path)
    assert len(themes) == len(SHIPPED_NAMES)
    assert "51 themes" in str(problem)


def test_without_the_shipped_files_there_is_still_a_theme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(themes_module, "__file__", str(tmp_path / "quail_audit" / "tui" / "theme" / "files.py"))
    themes, (problem,) = find_themes(None)
    assert [theme.name for theme in themes] == [DEFAULT_THEME]
    assert "Install Quail again" in str(problem)


@pytest.mark.parametrize("where", ["quail_audit/themes", "themes"])
def test_themes_are_found_in_a_package_and_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = tmp_path / where
    folder.mkdir(parents=True)
    write(folder, 'name = "quail-dark"\n', "quail-dark.toml")
    monkeypatch.setattr(themes_module, "__file__", str(tmp_path / "quail_audit" / "tui" / "theme" / "files.py"))
    assert shipped_folder() == folder


def test_the_pages_example_is_read_as_written_and_its_table_names_every_key(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "themes.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    theme = read_theme(write(tmp_path, example))
    assert (theme.name, theme.accent, theme.erased) == ("dusk", "#9ccfd8", theme.error)
    values = resolved(theme)
    for text in ("foreground", "muted", "primary", "accent", "error", "state-carried", "state-drowned", "plot-5"):
        assert contrast(rgb(values[text]), rgb(values["panel"])) >= 4.5
    for name in SHIPPED_NAMES:  # the shipped files leave nothing out but the cursor's reverse
        tables = tomllib.loads((shipped_folder() / f"{name}.toml").read_text())
        keys = {*tables, *(key for table in tables.values() if isinstance(table, dict) for key in table)}
        assert {key for key in keys if f"`{key}`" not in page and f"[{key}]" not in page} <= {
            "name",
            "dark",
            "ramp",
            "series",
        }
    assert all(f"`{name}`" in page for name in SHIPPED_NAMES)


def test_the_wheel_carries_the_themes_where_they_are_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"themes": "quail_audit/themes"}
    assert "themes" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
