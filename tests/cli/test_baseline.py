"""Whole audits against an earlier one, by the command: what failed is known, what got worse fails."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from quail_audit.runs.folder import read_report
from quail_audit.runs.names import EVENTS
from quail_audit.schema.figures import RuleOutcome
from quail_audit.schema.report import Report
from tests.support.quail_command import quail_here as quail


@dataclass(frozen=True)
class Audits:
    """Whole audits of a model that knows posts: half of them to forget, half to keep."""

    world: Path
    folder: Path

    def run(self, unlearned: str, name: str, *, baseline: str | None = None) -> Path:
        """Audit the original against it, into a folder of this name."""
        command = ["audit", self.world / "original", self.world / unlearned, "--data", self.folder / "data"]
        options = ["--device", "cpu", "--run-dir", self.folder / name, "--quiet"]
        against = [] if baseline is None else ["--baseline", self.folder / baseline]
        done = quail(*command, *options, *against)
        report = read_report(self.folder / name)
        assert done.exit_code == report.exit_code, done.output
        return self.folder / name


@pytest.fixture(scope="module")
def audits(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Audits:
    """Of the original as it is, which forgot nothing: before, and again with that as the baseline.

    And of a model that knows nothing, with the same baseline: it has lost what it was to keep.
    """
    folder = tmp_path_factory.mktemp("baselines")
    posts = json.loads((world / "data" / "verbmem" / "forget.json").read_text())
    (folder / "data" / "verbmem").mkdir(parents=True)
    for part, rows in (("forget", posts[:3]), ("retain", posts[3:])):
        (folder / "data" / "verbmem" / f"{part}.json").write_text(json.dumps(rows))
    made = Audits(world, folder)
    made.run("original", "before")
    made.run("original", "again", baseline="before")
    made.run("blank", "worse", baseline="before")
    return made


def rule_named(name: str, report: Report) -> tuple[RuleOutcome, ...]:
    return tuple(rule for rule in report.rules if rule.rule == name)


def test_what_failed_before_and_is_no_worse_passes(audits: Audits) -> None:
    before, again = read_report(audits.folder / "before"), read_report(audits.folder / "again")
    assert (before.exit_code, again.exit_code) == (1, 0)
    assert [rule.standing for rule in rule_named("forgetting", before)] == ["failed"] * 3
    assert [rule.standing for rule in rule_named("forgetting", again)] == ["known"] * 3
    (held,) = rule_named("baseline", again)
    assert (held.standing, held.message) == ("passed", f"nothing got worse than in the baseline, run {before.run_id}")
    assert again.schemes["nf4"].metrics == before.schemes["nf4"].metrics
    assert again.verdict is not None
    assert again.verdict.outcome == "pass"


def test_what_got_worse_fails_by_name_though_less_is_known(audits: Audits) -> None:
    before, worse = read_report(audits.folder / "before"), read_report(audits.folder / "worse")
    assert worse.exit_code == 1
    assert [rule.standing for rule in rule_named("forgetting", worse)] == ["known"] * 3, "three posts cannot tell"
    found = rule_named("baseline", worse)
    assert {(rule.standing, rule.figure, rule.scheme, rule.metric) for rule in found} == {
        ("failed", "score", scheme, metric) for scheme in (None, "nf4") for metric in ("verbmem_retain", "nll_retain")
    }
    assert worse.verdict is not None
    assert {rule.message for rule in found} <= {reason.message for reason in worse.verdict.reasons}
    for rule in found:
        assert rule.metric is not None
        arm = "unlearned/full" if rule.scheme is None else "unlearned/nf4"
        now, then = (report.schemes["nf4"].metrics[rule.metric][arm] for report in (worse, before))
        assert (rule.value, rule.low, rule.high) == (now.mean, now.low, now.high)
        assert f"{rule.metric} at {arm} is {now.mean:.4g}" in rule.message
        assert f"and was {then.mean:.4g}" in rule.message


def test_a_policy_check_holds_a_run_against_the_same_baseline_or_another(audits: Audits, tmp_path: Path) -> None:
    for name, code in (("before", 1), ("again", 0), ("worse", 1)):
        done = quail("policy", "check", audits.folder / name)
        assert (done.exit_code, read_report(audits.folder / name).exit_code) == (code, code), done.output
    itself = quail("policy", "check", audits.folder / "before", "--baseline", audits.folder / "before")
    assert itself.exit_code == 0
    assert "nothing got worse than in the baseline" in itself.output
    assert quail("policy", "check", audits.folder / "worse", "--baseline", audits.folder / "worse").exit_code == 0
    gone = quail("policy", "check", audits.folder / "before", "--baseline", tmp_path)
    assert gone.exit_code == 3
    assert "the baseline: no run here" in gone.output
    assert "--baseline" in gone.output


def test_the_baselines_events_are_hashed_and_a_changed_one_is_named(audits: Audits, tmp_path: Path) -> None:
    again = read_report(audits.folder / "again")
    assert again.request.baseline == str(audits.folder / "before")
    events = audits.folder / "before" / EVENTS
    (file,) = [file for file in again.files if file.role == "baseline"]
    assert (file.path, file.bytes) == (EVENTS, events.stat().st_size)
    assert file.sha256 == hashlib.sha256(events.read_bytes()).hexdigest()
    assert quail("verify", audits.folder / "again", "--quiet").exit_code == 0

    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / EVENTS).write_bytes(events.read_bytes().replace(b'"fail"', b'"pass"', 1))
    done = quail("verify", audits.folder / "again", "--baseline", changed, "--quiet", "--format", "json")
    assert done.exit_code == 1
    named = [check for check in json.loads(done.stdout)["checks"] if check["standing"] != "unchanged"]
    assert [(check["role"], check["name"], check["standing"]) for check in named] == [("baseline", EVENTS, "changed")]
