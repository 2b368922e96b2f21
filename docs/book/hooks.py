"""Pages of the site that are made and not written: the commands from their help, the Python reference from docstrings,
and the README, CONTRIBUTING and CHANGELOG that stand at the top of the repository.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from quail_audit.cli.app import app
from quail_audit.cli.main import _add_plugged_in_commands

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("quail_audit", "quail_train")
FACES = ("tui", "terminal")  # nobody calls these from Python
TOP_LEVEL = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = "reference/commands.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    reference = [{"Commands": COMMANDS}, *({name: path} for name, path, _ in modules())]
    assert config.nav is not None
    next(part for part in config.nav if "Reference" in part)["Reference"].extend(reference)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {COMMANDS: "\n".join(commands())}
    pages |= {path: text for _, path, text in modules()}
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
    _add_plugged_in_commands()
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


def modules() -> Iterator[tuple[str, str, str]]:
    """Of each package: its name, its page, and the page's text, which mkdocstrings fills from the docstrings."""
    for top in PACKAGES:
        folders = [folder.parent for folder in (ROOT / top).rglob("__init__.py")]
        for folder in sorted(folders, key=lambda folder: folder.parts):
            package = ".".join(folder.relative_to(ROOT).parts)
            names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
            if any(f".{face}" in f"{package}." for face in FACES) or not names:
                continue
            parts = [f"# {package}\n", *(f"::: {package}.{name}\n" for name in names)]
            yield package, f"reference/{package}.md", "\n".join(parts)
