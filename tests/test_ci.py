"""What the repository offers to CI: the action's own commands are run, the hook's and the pages' are parsed."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import quail_audit.cli.main  # noqa: F401 - registers the commands
from quail_audit.cli.app import app
from tests.support.made_runs import events, write_run
from tests.support.places import ROOT

FOLDER = ROOT / ".github" / "actions" / "audit"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
STAND_IN = """#!/bin/sh
# In the place of quail: an audit leaves the run it was given; a report is the name of its format.
{ echo "$0" | sed 's:.*/::'; for argument; do echo "$argument"; done; echo; } >> "$CALLS"
folder= output= before=
for argument; do
  case "$before" in --run-dir) folder=$argument ;; --output) output=$argument ;; --format) format=$argument ;; esac
  before=$argument
done
if [ "$1" = audit ]; then
  if [ -n "$MADE" ]; then mkdir -p "$(dirname "$folder")"; cp -r "$MADE" "$folder"; fi
  exit "$CODE_OF_AUDIT"
fi
if [ "$1" = report ]; then echo "$format" > "$output"; fi
"""


@dataclass(frozen=True)
class Done:
    """What the action left.

    Attributes:
        codes: the exit code of each step that has commands, by its name.
        calls: what it called, each with its arguments.
        summary: of the step, on the run's page.
        outputs: of the action.
    """

    codes: dict[str, int]
    calls: list[list[str]]
    summary: str
    outputs: dict[str, str]


def act(folder: Path, programs: Path, inputs: dict[str, str], **environment: str) -> Done:
    """Run the action's steps as the runner does: bash -eo pipefail, each in the same folder, until one fails."""
    given = {name: settings.get("default", "") for name, settings in ACTION["inputs"].items()} | inputs
    known = {f"inputs.{name}": value for name, value in given.items()} | {"github.action_path": str(FOLDER)}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: known[found[1]], text)

    codes = {}
    summary = folder / "summary"
    calls = folder / "calls"
    calls.touch()
    summary.touch()
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for step in STEPS:
        if "run" not in step:
            continue
        output = folder / "output"
        output.write_text("")
        own = {name: filled(value) for name, value in step.get("env", {}).items()}
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary), "CALLS": str(calls)}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env=os.environ | environment | files | own | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        codes[step["name"]] = done.returncode
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step['id']}.outputs.{name}"] = value
        if done.returncode:
            break
    outputs = {name: filled(settings["value"]) for name, settings in ACTION["outputs"].items()}
    called = [call.split("\n") for call in calls.read_text().split("\n\n") if call]
    return Done(codes, called, summary.read_text(), outputs)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("quail", "python"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work space"
    folder.mkdir()
    return folder


def test_the_action_installs_itself_audits_reports_and_fails(tmp_path: Path, stand_ins: Path, work: Path) -> None:
    made = write_run(tmp_path / "made", events(samples=1))
    inputs = {
        "original": "a; touch hacked",
        "unlearned": "$(touch hacked)",
        "data": "my data",
        "schemes": "nf4 fp4",
        "arguments": "--policy\nmy policy.toml\n\n--quiet\n",
        "output": "out folder",
    }
    done = act(work, stand_ins, inputs, MADE=str(made), CODE_OF_AUDIT="1")
    assert done.codes == {"Install": 0, "Audit": 0, "Reports": 0, "Verdict": 1}
    assert done.outputs["exit-code"] == "1"
    install, audit, *reports = done.calls
    assert install[:4] == ["python", "-m", "pip", "install"]
    assert (Path(install[-1]) / "pyproject.toml").resolve() == ROOT / "pyproject.toml"
    assert audit == [
        "quail", "audit", "a; touch hacked", "$(touch hacked)", "--run-dir", "out folder/run", "--data", "my data",
        "--scheme", "nf4", "--scheme", "fp4", "--policy", "my policy.toml", "--quiet",
    ]  # fmt: skip
    assert [call[:3] for call in reports] == [["quail", "report", "out folder/run"]] * 4
    assert done.summary == "markdown\n"
    assert (work / done.outputs["sarif"]).read_text() == "sarif\n"
    assert (work / done.outputs["run"] / "events.jsonl").is_file()
    assert not list(work.rglob("hacked"))
    for call in (audit, *reports):
        parses(call)


@pytest.mark.parametrize("code", ["0", "5", "130"])
def test_the_actions_end_is_the_audits(code: str, tmp_path: Path, stand_ins: Path, work: Path) -> None:
    made = write_run(tmp_path / "made", events(samples=1))
    inputs = {"original": "a", "unlearned": "b"}
    assert act(work, stand_ins, inputs, MADE=str(made), CODE_OF_AUDIT=code).codes["Verdict"] == int(code)


def test_an_audit_that_never_started_is_not_reported(stand_ins: Path, work: Path) -> None:
    done = act(work, stand_ins, {"original": "a", "unlearned": "b"}, MADE="", CODE_OF_AUDIT="3")
    assert done.codes == {"Install": 0, "Audit": 0, "Reports": 0, "Verdict": 3}
    assert done.summary == ""


@pytest.mark.slow
def test_the_action_audits_a_small_pair(tmp_path: Path, stand_ins: Path, work: Path, world: Path) -> None:
    program = stand_ins / "quail"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m quail_audit "$@"\n')
    inputs = {"original": str(world / "original"), "unlearned": str(world / "blank"), "data": str(world / "data")}
    done = act(work, stand_ins, inputs | {"arguments": "--max-samples\n2"}, CODE_OF_AUDIT="0", MADE="")
    assert done.codes == {"Install": 0, "Audit": 0, "Reports": 0, "Verdict": 0}
    assert "## Quail: ✓ PASS" in done.summary
    for name in ("report.html", "report.md", "junit.xml", "quail.sarif"):
        assert (work / "quail-audit" / name).stat().st_size > 100


def test_no_input_is_put_into_a_command() -> None:
    """It would be read by the shell: inputs travel as environment variables."""
    for step in STEPS:
        assert "${{" not in step.get("run", "")
        assert ("run" in step) == (step.get("shell") == "bash")
    named = set(re.findall(r"inputs\.([\w-]+)", (FOLDER / "action.yml").read_text()))
    assert named == set(ACTION["inputs"])


def parses(call: list[str]) -> None:
    """The command exists and takes these arguments."""
    program, command, *arguments = call
    assert program == "quail"
    group = typer.main.get_command(app)
    group.commands[command].make_context(command, arguments)  # type: ignore[attr-defined]


def test_the_hook_runs_where_weights_change() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["language"] == "python"
    assert not hook["pass_filenames"]
    parses([*shlex.split(hook["entry"]), "original", "unlearned"])
    assert re.search(hook["files"], "unlearned/model-00001-of-00002.safetensors")
    assert not re.search(hook["files"], "README.md")
    (shown,) = [
        block
        for block in re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/ci/github.md").read_text(), re.M | re.S)
        if "hooks:" in block
    ]
    (asked,) = yaml.safe_load(shown)["repos"][0]["hooks"]
    assert asked["id"] == hook["id"]
    parses(["quail", "audit", *asked["args"]])


@pytest.mark.parametrize("page", ["github", "gitlab", "jenkins"])
def test_the_pages_show_what_can_be_run(page: str) -> None:
    text = (ROOT / "docs" / "ci" / f"{page}.md").read_text()
    for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S):
        loaded = yaml.safe_load(block)
        assert loaded
        for step in loaded.get("jobs", {}).get("audit", {}).get("steps", []) if isinstance(loaded, dict) else []:
            if step.get("id") == "quail":
                assert set(step["with"]) <= set(ACTION["inputs"])
                assert step["uses"].partition("@")[0].endswith("/.github/actions/audit")
    commands = re.findall(r"(?:^|[ '/-])quail ((?:audit|report|compare) .*?)(?: \|\||'|\n)", "".join(
        re.findall(r"^```\w+\n(.*?)^```$", text, re.M | re.S)
    ))  # fmt: skip
    assert page == "github" or len(commands) >= 3
    for command in commands:
        parses(["quail", *shlex.split(command)])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_options(shell: str) -> None:
    words = {
        "COMP_WORDS": "quail report --form",
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "quail report --form",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = "import sys; from quail_audit.cli.main import main; sys.argv = ['quail']; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | words | {"_QUAIL_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--format" in done.stdout
    assert "--figures" not in done.stdout
