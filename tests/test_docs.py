"""What the README and the pages under docs show is run as it is written."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import quail_audit as quail
from quail_audit.cli import main as cli
from quail_audit.engine.schemes.registry import known_schemes
from quail_audit.runs.folder import read_report
from tests.support.pages import blocks, commands
from tests.support.places import ROOT


@pytest.mark.parametrize("number", [0, 1])
def test_the_worked_examples_print_what_the_page_says(number: int) -> None:
    codes, printed = blocks("docs/metrics.md", "python"), blocks("docs/metrics.md", "text")
    assert len(codes) == len(printed) == 2
    done = subprocess.run([sys.executable, "-c", codes[number]], capture_output=True, text=True, check=True)
    assert done.stdout == printed[number]


def test_the_python_pages_examples_run(
    as_after_the_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, each with no names but its own, as each imports what it needs."""
    monkeypatch.chdir(as_after_the_demo)
    for code in blocks("docs/python.md", "python"):
        exec(code, {})  # noqa: S102 - the page's own code
        assert capsys.readouterr().out
    exec(blocks("docs/python.md", "python")[-1], {})  # noqa: S102
    assert capsys.readouterr().out.startswith("schemes: unknown scheme 'nf5'. Did you mean nf4?")


def test_the_notebook_runs(as_after_the_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By exec and not by nbclient, which needs a kernel and twenty packages; a cell shows its last line's value."""
    monkeypatch.chdir(as_after_the_demo)
    notebook = json.loads((ROOT / "docs/notebooks/audit.ipynb").read_text())
    names: dict[str, object] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "outputs name folders of the machine that made them"
            *statements, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(statements, []), "cell", "exec"), names)  # noqa: S102
            assert isinstance(last, ast.Expr)
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))  # noqa: S307
    assert isinstance(shown[0], quail.Report)
    assert set(shown[1]) == {"nf4", "fp4"}
    assert all(len(table) for table in shown[2:])


def test_the_readme_has_commands() -> None:
    assert len(commands("README.md")) >= 6


@pytest.fixture
def as_after_the_demo(world: Path, tmp_path: Path) -> Path:
    """A folder where small models stand in for the demo's."""
    demo = tmp_path / "quail-demo"
    demo.mkdir()
    for name, target in (("original", "original"), ("unlearned", "blank"), ("retrain", "blank"), ("data", "data")):
        (demo / name).symlink_to(world / target)
    return tmp_path


def verdict_of(arguments: list[str]) -> int:
    """The exit code of a command on these models, which hold: weights alone and few texts tell nothing."""
    return 5 if "audit" in arguments and ("--data" not in arguments or "--max-samples" in arguments) else 0


@pytest.mark.parametrize("command", commands("README.md"))
def test_the_readmes_commands_run(command: str, as_after_the_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a new one takes seconds to import torch."""
    monkeypatch.chdir(as_after_the_demo)
    name, *arguments = shlex.split(command)
    assert name == "quail"
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == verdict_of(arguments), done.output
    assert done.stdout or (as_after_the_demo / "report.json").stat().st_size


def in_a_shell(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )


def test_a_command_of_the_readme_runs_in_a_shell(as_after_the_demo: Path) -> None:
    done = in_a_shell("quail schemes", as_after_the_demo)
    assert "quail schemes" in commands("README.md")
    assert done.returncode == 0, done.stderr
    assert "nf4" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("README.md"))
def test_the_readmes_commands_run_in_a_shell_as_written(command: str, as_after_the_demo: Path) -> None:
    done = in_a_shell(command, as_after_the_demo)
    assert done.returncode == verdict_of(shlex.split(command)), done.stderr
    assert done.stdout or (as_after_the_demo / "report.json").stat().st_size


def test_the_readmes_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"^make ([a-z-]+)", "\n".join(blocks(page, "sh")), re.MULTILINE)
        assert named
        assert set(named) <= set(targets)


def test_the_files_that_commands_and_pages_name_exist() -> None:
    """A test that moved is named anew in the Makefile, in CI and in every page that tells how to run it."""
    says = [ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"]
    says += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").rglob("*.yml"))]
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in says
        for name in re.findall(r"\b(?:tests|docs)/[\w./-]+\.(?:py|md|json|svg|sh)\b", path.read_text())
    }
    assert len(named) > 20
    assert [each for each in sorted(named) if not (ROOT / each[1]).exists()] == []


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_scheme_of_the_page_is_found_and_measures(tmp_path: Path) -> None:
    """Installed as its page says: one file, and the entry point in the metadata of its package."""
    (code,), (metadata,) = blocks("docs/schemes.md", "python"), blocks("docs/schemes.md", "toml")
    ((group, points),) = tomllib.loads(metadata)["project"]["entry-points"].items()
    (tmp_path / "quail_ternary.py").write_text(code)
    package = tmp_path / "quail_ternary-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: quail-ternary\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (package / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    program = """
import torch
import quail_audit as quail
from quail_audit.engine.schemes.registry import expand_names, scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.engine.weights.statistics import layer_detail
assert "ternary-g32" in expand_names(["all"])
original, unlearned = torch.zeros(1, 32), torch.zeros(1, 32)
original[0, :3] = torch.tensor([1.0, 0.4, 0.2])
unlearned[0, :3] = torch.tensor([1.0, 0.6, 0.3])
layer = quail.measure(original, unlearned, "ternary-g32")
detail = layer_detail(pair_sums(original, unlearned, scheme_named("ternary-g32")))
print(layer.overlap, round(layer.survival, 4), detail.transitions)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    # 0.4 -> 0.6 crosses the middle and becomes 1, 0.2 -> 0.3 does not: of 0.2² + 0.1², 1 × 0.2 is carried
    assert done.stdout == f"{31 / 32} {0.2 / 0.05:.1f} (0, 0, 0, 0, 1, 1, 0, 0, 0)\n"


def test_the_page_on_schemes_names_every_one_that_is_listed() -> None:
    page = (ROOT / "docs/schemes.md").read_text()
    for scheme in known_schemes():
        form = re.sub(r"^rtn-int.*", "rtn-int{2,3,4,8}", scheme.name).removeprefix("gguf-")
        assert f"`{form}" in page or f"`{scheme.name}`" in page, scheme.name


def test_the_tree_of_the_page_is_that_of_the_code() -> None:
    """Every folder of code is named, and nothing that is not there."""
    (tree,) = blocks("docs/architecture.md", "text")
    named: dict[int, Path] = {}
    places = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        place = named.get(depth - 1, ROOT) / name
        assert place.exists(), line
        assert place.is_dir() == name.endswith("/"), line
        named[depth] = place
        places.add(place)
    packages = {path.parent for top in ("quail_audit", "quail_train") for path in (ROOT / top).rglob("__init__.py")}
    assert packages <= places


def test_the_gallery_shows_one_report_and_nothing_of_the_machine_it_was_made_on() -> None:
    gallery = ROOT / "docs" / "gallery" / "report"
    report = read_report(gallery / "report.json")
    names = {path.name for path in gallery.iterdir()}
    assert {f"report.{ending}" for ending in ("txt", "html", "md.txt", "json", "xml", "sarif", "csv")} <= names
    for path in gallery.iterdir():
        if path.suffix != ".png":
            text = path.read_text()
            assert not re.search(r"/(work|tmp|root|home|Users|mnt)/", text), path.name
            assert path.suffix in (".svg", ".xml", ".csv") or "quail-demo" in text or path.name == "README.md.txt"
    assert report.run_id in (gallery / "report.txt").read_text()
    assert report.request.original == "quail-demo/original"


def test_the_site_names_every_page() -> None:
    """The build, make docs, does too; this says so at once."""
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "docs/book/mkdocs.yml").read_text()))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= listed


def test_the_first_page_has_the_figures_of_the_page_on_validity() -> None:
    page, readme = ((ROOT / path).read_text() for path in ("docs/validity.md", "README.md"))
    rows = re.findall(
        r"^\| (\d+) \| (Quail|earlier rule) \| \d+ \| (\d+ of \d+) .*?\| (\d+ of \d+) .*\((.*) %\) \|$", page, re.M
    )
    told = {(items, rule): figures for items, rule, *figures in reversed(rows)}  # the first table counts
    for items in ("32", "64", "96"):
        passes, fails, doubt = told[items, "Quail"]
        earlier = told[items, "earlier rule"][0].partition(" ")[0]
        assert f"| {items} | {passes} (the earlier rule: {earlier}) | {fails} | {doubt} %" in readme
