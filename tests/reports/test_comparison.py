"""Two audits against each other, as text, Markdown and JSON, and the command that writes them."""

import io
import json
from pathlib import Path

from rich.console import Console

from quail_audit.reports import comparison
from quail_audit.runs.folder import read_report
from quail_audit.schema.figures import Estimate, Kept
from quail_audit.schema.report import Report
from quail_audit.verdict.comparison import Comparison, compare
from tests.support import small_run
from tests.support.made_runs import events, write_run
from tests.support.places import GOLDEN
from tests.support.quail_command import quail
from tests.support.small_run import report_of


def repaired() -> Comparison:
    """nf4 and fp4 fail before; after, nf4 passes and was audited beside int8."""
    before = report_of(*events(blocks=2, schemes=("nf4", "fp4"), samples=8))
    after = report_of(*events(blocks=2, schemes=("nf4", "int8"), samples=8, outcome="pass", seed=1))
    return compare(before, after)


def test_formats_say_what_got_better_and_which_only_one_run_has() -> None:
    found = repaired()
    assert [(each.scheme, each.standing) for each in found.formats] == [
        ("nf4", "better"),
        ("fp4", "unknown"),
        ("int8", "unknown"),
    ]
    assert [each.scheme for each in found.schemes] == ["nf4"]
    swapped = compare(report_of(*events(blocks=1, samples=4, outcome="pass")), report_of(*events(blocks=1, samples=4)))
    assert [each.standing for each in swapped.formats] == ["worse"]


def test_the_text_says_the_change_in_words() -> None:
    stream = io.StringIO()
    comparison.show(repaired(), Console(file=stream, width=120, highlight=False))
    lines = stream.getvalue().splitlines()
    row = next(line for line in lines if line.strip().startswith("nf4"))
    change = "nf4 ✗ FAIL 8 of 8 back, 97 % [91, 103] known ✓ PASS 0 of 8 back, 2 % [0, 6] known ▲ better"
    assert " ".join(row.split()) == change
    known = next(line for line in lines if "VerbMem, forget: back, known" in line)
    assert "8 of 8, 97 % [91, 103]" in known
    assert "▲ better" in known
    rounded = next(line for line in lines if "VerbMem, forget: unlearned/nf4" in line)
    assert "▲ better" in rounded
    assert "= same" in next(line for line in lines if "VerbMem, forget: unlearned/full" in line)
    assert not any("original/" in line for line in lines), "the same model in both"
    titles = [line.split("  ")[0].strip() for line in lines[lines.index(next(x for x in lines if "Knowledge" in x)) :]]
    assert titles[2:6] == [
        "VerbMem, forget: back, known",
        "KnowMem, forget: back, known",
        "Min-40% AUC: told again",
        "VerbMem, forget: unlearned/full",
    ]


def test_markdown_has_the_same_tables() -> None:
    text = comparison.render_markdown(repaired())
    failed = "✗ FAIL 8 of 8 back, 97 % \\[91, 103\\] known"
    assert f"| `nf4` | {failed} | ✓ PASS 0 of 8 back, 2 % \\[0, 6\\] known | ▲ better |" in text
    assert f"| `fp4` | {failed} | — |  |" in text


def test_what_is_kept_is_compared_too() -> None:
    def kept(percent: float) -> Report:
        found = Estimate(percent=percent, low=percent - 4, high=percent + 4, items=48)
        report = report_of(*small_run.events())
        scheme = report.schemes["nf4"].model_copy(update={"utility": {"knowmem_retain": Kept(utility=found)}})
        return report.model_copy(update={"schemes": {"nf4": scheme}})

    text = comparison.render_markdown(compare(kept(95.0), kept(42.0)))
    assert "| `KnowMem, retain: utility` | 95 % \\[91, 99\\], n = 48 | 42 % " in text
    assert "▼ worse" in next(line for line in text.splitlines() if "retain: utility" in line)
    text = comparison.render_markdown(compare(kept(95.0), kept(89.0)))
    assert "= same" in next(line for line in text.splitlines() if "retain: utility" in line)


def test_an_older_report_compares_and_says_that_recovery_was_measured() -> None:
    older = read_report(GOLDEN / "reports" / "cc0961e.json")
    found = compare(older, report_of(*events(blocks=2, samples=4)))
    assert found.caveats[0].startswith(f"{older.run_id} was measured by recovery")
    assert "was measured by recovery" in comparison.render_markdown(found)
    assert {change.scheme: change.standing for change in found.formats}["nf4"] == "unknown", (
        "it had no verdict a format"
    )
    assert not any("recovery" in caveat for caveat in compare(older, older).caveats)


def test_the_command_compares_two_runs(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", events(blocks=2, samples=4))
    after = write_run(tmp_path / "after", events(blocks=2, samples=4, outcome="pass"))
    done = quail("compare", before, after)
    assert done.returncode == 0, done.stderr
    assert "▲ better" in done.stdout
    done = quail("compare", before, after, "--format", "json", "--output", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["formats"][0]["before"]["standing"] == "fail"
    assert document["formats"][0]["after"]["standing"] == "pass"
    assert len(document["schemes"][0]["layers"]) == 14
    assert quail("compare", before, tmp_path).returncode == 3
