"""What the README and the pages under docs show is run as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("quail ")]


def test_the_worked_example_prints_what_the_page_says() -> None:
    (code,), (printed,) = blocks("docs/metrics.md", "python"), blocks("docs/metrics.md", "text")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_the_readme_has_commands() -> None:
    assert len(commands("README.md")) >= 6


@pytest.mark.parametrize("command", commands("README.md"))
def test_the_readmes_commands_run_as_written(command: str, world: Path, tmp_path: Path) -> None:
    """In a folder where small models stand in for the demo's."""
    demo = tmp_path / "quail-demo"
    demo.mkdir()
    for name, target in (("original", "original"), ("unlearned", "blank"), ("retrain", "blank"), ("data", "data")):
        (demo / name).symlink_to(world / target)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or (tmp_path / "report.json").stat().st_size


def test_the_readmes_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"^make ([a-z-]+)", "\n".join(blocks(page, "sh")), re.MULTILINE)
        assert named
        assert set(named) <= set(targets)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
