"""Make the site's pages that nobody writes: the commands from their help, the Python reference from docstrings.

Also those that stand at the top of the repository: README, CONTRIBUTING and CHANGELOG.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import quail_audit
from quail_audit.cli.app import app
from quail_audit.cli.main import add_plug_ins

ROOT = Path(__file__).parent.parent.parent
TOP_LEVEL = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = "reference/commands.md"
# What a caller or a plug-in imports: a page's name and title, and what is on it.
PYTHON: Mapping[tuple[str, str], Iterable[str]] = {
    ("python", "Python API"): [
        f"quail_audit.{name}" for name in (*quail_audit._HOMES["quail_audit.api"], "Comparison")
    ],
    ("schemes", "Schemes"): ["quail_audit.engine.schemes.interface"],
    ("metrics", "Metrics"): [
        "quail_audit.engine.forgetting.metrics.interface",
        "quail_audit.engine.forgetting.data.types",
    ],
    ("errors", "Errors"): ["quail_audit.core.errors"],
    ("report", "Report"): ["quail_audit.schema.report", "quail_audit.schema.figures"],
    ("events", "Events"): [
        f"quail_audit.schema.events.{name}" for name in ("lines", "common", "audit", "training", "cures")
    ],
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    reference = [{"Commands": COMMANDS}, *({title: f"reference/{name}.md"} for name, title in PYTHON)]
    assert config.nav is not None
    next(part for part in config.nav if "Reference" in part)["Reference"].extend(reference)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {COMMANDS: "\n".join(commands())}
    for (name, title), objects in PYTHON.items():  # mkdocstrings fills them from the docstrings
        pages[f"reference/{name}.md"] = "\n".join([f"# {title}\n", *(f"::: {path}\n" for path in objects)])
    for name, path in TOP_LEVEL.items():
        pages[path] = from_top((ROOT / name).read_text(encoding="utf-8"))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the repository's top lead to its pages here; those to what the site has not are left as their text."""
    folder = posixpath.dirname(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place in TOP_LEVEL:
            return f"[{text}]({posixpath.relpath(TOP_LEVEL[place], folder or '.')}{anchor})"
        return found[0] if place.startswith("docs/") else text

    return re.sub(r"(?<!!)\[([^\]]*)\]\((\.\./[^)\s#]+)(#[^)\s]*)?\)", led, markdown)


def from_top(text: str) -> str:
    """A page of the repository's top, its links those of the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    for name, path in TOP_LEVEL.items():
        text = text.replace(f"]({name}", f"]({path}")
    return text


def commands() -> Iterator[str]:
    """Every command's help, as a page."""
    add_plug_ins()
    group: Any = typer.main.get_command(app)
    yield "# Commands\n"
    yield f"{group.help} `quail COMMAND --help` says the same.\n"
    yield f"{group.epilog}\n"
    for name, command in sorted(group.commands.items()):
        context = command.make_context(f"quail {name}", [], resilient_parsing=True)
        yield f"## quail {name}\n"
        yield f"```text\n{command.get_usage(context).removeprefix('Usage:').strip()}\n```\n"
        yield f"{escaped(command.help or '')}\n"
        records = [record for each in command.params if (record := each.get_help_record(context))]
        if records:
            yield "| argument | what it says |\n|---|---|"
        for names, said in records:
            yield f"| `{names}` | {' '.join(escaped(said).split())} |"
        if command.epilog:
            title, _, examples = command.epilog.partition("\n")
            shown = "\n".join(line.strip() for line in examples.splitlines() if line.strip())
            yield f"\n{title}\n\n```sh\n{shown}\n```\n"
        yield ""


def escaped(text: str) -> str:
    """Plain text of a help as Markdown."""
    return re.sub(r"([<*_\[\]|])", r"\\\1", text)
