"""A policy from its file to what a report says of it, and reports judged anew."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.errors import BadInputError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.engine.weights.statistics import layer_statistics
from quail_audit.reports import junit, markdown
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.record import record
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import PolicyRead, VerdictReached
from quail_audit.schema.events.lines import from_line, to_line
from quail_audit.schema.figures import Estimate, PolicyUsed
from quail_audit.schema.policy import Limits, Policy
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.judge import checks_of_report, day_of, judge_report, layer_with_limits
from quail_audit.verdict.policy_file import read_policy
from tests.support.pages import blocks, commands
from tests.support.quail_command import quail_here as quail
from tests.support.small_run import REQUEST, events, layer

POLICY = """
[limits]
max_known_percent = 20
max_back_percent = 20
[required]
metrics = ["knowmem_forget"]
[[rules]]
name = "queries carry"
figure = "survival"
layers = "*.q_proj"
at_least = 0.5
[[rules]]
name = "knows the posts"
figure = "score"
metrics = "verbmem_forget"
at_least = 90
[[waivers]]
rule = "knows the posts"
reason = "a model that was never trained babbles"
owner = "ana"
expires = 2999-01-01
"""


@pytest.fixture(scope="module")
def ran(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit with a policy, of a model that knows nothing; beside it, the policy."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "quail.toml").write_text(POLICY)
    request = AuditRequest(
        original=str(world / "original"),
        unlearned=str(world / "blank"),
        data=str(world / "data"),
        metrics=("verbmem_forget",),
        max_samples=4,
        policy=str(folder / "quail.toml"),
        limits={"max_known_percent": 15.0},
        device="cpu",
    )
    with new_run(folder / "run", request):
        list(record(audit(request, "run"), folder / "run"))
    return folder / "run"


def test_an_audit_says_every_rule_and_the_values_that_counted(ran: Path) -> None:
    report = read_report(ran)
    assert report.exit_code == 1
    assert {rule.rule: rule.standing for rule in report.rules} == {
        "forgetting": "not judged",
        "kept utility": "not judged",
        "queries carry": "passed",
        "knows the posts": "waived",
        "required metric": "failed",
    }
    assert report.policy is not None
    assert report.policy.source is not None
    assert report.policy.source.endswith("quail.toml")
    assert report.policy.given == {"max_known_percent": 15.0}
    assert report.policy.effective.limits == Limits(max_known_percent=15.0, max_back_percent=20.0)
    assert {rule.at_most for rule in report.rules if rule.rule == "forgetting"} == {15.0}


def test_judged_again_by_its_own_policy_a_report_says_the_same(ran: Path) -> None:
    report = read_report(ran)
    assert report.policy is not None
    again = judge_report(report, report.policy.effective, day_of(report))
    assert (again.overall, again.schemes, again.rules) == (
        report.verdict,
        {scheme: each.verdict for scheme, each in report.schemes.items()},
        report.rules,
    )


def test_a_report_is_judged_anew_by_another_policy(ran: Path) -> None:
    """Four of six texts, of which none is back exclude no small limit, whatever it is; a large one they do."""
    report = read_report(ran)
    assert judge_report(report, Policy(), day_of(report)).overall.outcome == "inconclusive"
    loose = Policy.model_validate({"limits": {"max_known_percent": 90.0, "max_back_percent": 90.0}})
    judged = judge_report(report, loose, day_of(report))
    assert judged.overall.outcome == "pass"
    known = judged.weighed.knowledge["nf4"]["verbmem_forget"]
    assert (known.outcome, report.schemes["nf4"].knowledge["verbmem_forget"].outcome) == ("holds", "undecided")
    strict = Policy.model_validate({"limits": {"informative_points": 100.0}})
    judged = judge_report(report, strict, day_of(report))
    assert judged.weighed.knowledge["nf4"]["verbmem_forget"].outcome == "uninformative"


def test_a_report_without_a_day_is_no_traceback(ran: Path) -> None:
    with pytest.raises(BadInputError, match="the report has no valid start time: -1-01-01"):
        day_of(read_report(ran).model_copy(update={"started": "-1-01-01T12:00:00+00:00"}))


def test_the_commands_say_it(ran: Path, tmp_path: Path) -> None:
    done = quail("policy", "check", str(ran))
    assert done.exit_code == 1, done.stderr
    for said in ("FAIL", "queries carry", "at least 0.5", "required metric", "waived until 2999-01-01 by ana"):
        assert said in " ".join(done.stdout.split())  # lines are wrapped
    (tmp_path / "loose.toml").write_text("[limits]\nmax_known_percent = 90\nmax_back_percent = 90\n")
    assert quail("policy", "check", str(ran), "--policy", str(tmp_path / "loose.toml")).exit_code == 0
    (tmp_path / "older.toml").write_text("[limits]\nmax_recovery_percent = 90\n")
    older = quail("policy", "check", str(ran), "--policy", str(tmp_path / "older.toml"))
    assert older.exit_code == 0
    assert "max_recovery_percent is read as max_known_percent" in " ".join(older.stdout.split())
    assert quail("policy", "check", str(ran), "--policy", str(tmp_path / "none.toml")).exit_code == 3
    assert quail("policy", "check", str(tmp_path)).exit_code == 3


def test_an_audit_finds_the_policy_of_its_folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = quail("policy", "init")
    assert made.exit_code == 0, made.stderr
    assert quail("policy", "init").exit_code == 3
    arguments = ("audit", str(world / "original"), str(world / "blank"), "--format", "json", "--quiet")
    done = quail(*arguments, "--limit", "survival_at_risk=0.1")
    assert done.exit_code == 5, done.stderr  # weights alone
    report = Report.model_validate_json(done.stdout)
    assert report.policy is not None
    assert (report.policy.source, report.policy.given) == ("quail.toml", {"survival_at_risk": 0.1})
    assert report.request.policy == "quail.toml"
    (tmp_path / "quail.toml").write_text("[limit]\n")
    assert quail(*arguments).exit_code == 3
    assert quail(*arguments, "--limit", "survival=0.1").exit_code == 2


def test_every_format_shows_the_rules(ran: Path) -> None:
    report = read_report(ran)
    text = quail("report", str(ran)).stdout
    html = quail("report", str(ran), "--format", "html").stdout
    for page in (text, html, markdown.render(report)):
        assert "queries carry" in page
        assert "waived" in page
    cases = junit.render(report)
    assert 'name="queries carry: nf4, at least 0.5"' in cases
    assert cases.count("<failure") == 1
    assert cases.count("<skipped") == 3  # undecided, no retain set, waived


def test_reports_of_quail_before_policies_still_load_and_are_not_judged_anew(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", REQUEST) as folder:
        list(record(events(), folder))
    old = json.loads((folder / "report.json").read_text())
    for added in ("policy", "rules", "items", "population", "digest"):
        del old[added]
    del old["request"]["limits"]
    old["schema_version"] = 1
    for scheme in old["schemes"].values():
        del scheme["knowledge"], scheme["utility"]
        recovery = {"outcome": "recovered", "percent": 98.0, "low": 80.0, "high": 104.0, "floor": 20.0}
        scheme["recovery"] = {"verbmem_forget": recovery}
    report = Report.model_validate(old)
    assert (report.policy, report.rules, report.items) == (None, (), {})
    known = report.schemes["nf4"].knowledge["verbmem_forget"]
    assert (known.outcome, known.known, known.back) == (
        "comes back",
        Estimate(percent=98.0, low=80.0, high=104.0, items=1, standing="above"),
        None,
    )
    with pytest.raises(BadInputError, match="audit again"):
        judge_report(report, Policy(), day_of(report))


@given(
    survival=st.floats(-0.5, 1.5),
    overlap=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    limits=st.builds(Limits, overlap_at_risk=st.floats(0, 1), survival_at_risk=st.floats(0, 1)),
)
def test_a_layer_gets_the_state_that_measuring_gives_it(survival: float, overlap: float, limits: Limits) -> None:
    """Held against layer_statistics on real matrices below; here: every state is one of its figures."""
    found = layer_with_limits(layer(survival=survival, overlap=overlap), limits)
    expected = (
        "erased"
        if survival < limits.survival_at_risk
        else "drowned"
        if overlap >= limits.overlap_at_risk
        else "carried"
    )
    assert (found.state, found.at_risk) == (expected, expected != "carried")


def test_states_by_other_limits_are_those_of_measuring_by_them() -> None:
    scheme = scheme_named("nf4")
    assert isinstance(scheme, FourBit)
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(16, 64, generator=generator)
    states = set()
    for size in (0.0, 0.001, 0.02, 0.3):
        sums = pair_sums(original, original + size * torch.randn(16, 64, generator=generator), scheme)
        plain = layer_statistics(sums, name="x", block=None, role="x")
        for overlap in (0.3, 0.9, 0.99):
            for survival in (0.1, 0.9, 1.0):
                limits = Limits(overlap_at_risk=overlap, survival_at_risk=survival)
                measured = layer_statistics(sums, name="x", block=None, role="x", limits=limits)
                assert layer_with_limits(plain, limits) == measured
                states.add(measured.state)
    assert states == {"untouched", "carried", "drowned", "erased"}


def test_what_a_policy_says_survives_its_lines(ran: Path) -> None:
    lines = (ran / "events.jsonl").read_text().splitlines()
    read = [from_line(line) for line in lines]
    assert [to_line(event) for event in read] == lines
    assert any(isinstance(event, PolicyRead) and isinstance(event.policy, PolicyUsed) for event in read)
    assert any(isinstance(event, VerdictReached) and event.rules for event in read)


def test_checks_of_an_unfinished_report_need_no_verdict() -> None:
    state = AuditState()
    for event in events():
        if event.type == "verdict_reached":
            break
        state.apply(event)
    report = state.report()
    assert report.verdict is None
    assert [check.outcome for check in checks_of_report(report, Policy(), day_of(report)).all] == ["fail", None]


@pytest.mark.parametrize("number", range(len(blocks("docs/policy.md", "toml"))))
def test_the_examples_of_the_page_are_policies(number: int, tmp_path: Path) -> None:
    path = tmp_path / "quail.toml"
    path.write_text(blocks("docs/policy.md", "toml")[number])
    assert read_policy(str(path)) != Policy() or number == 0


def test_the_examples_of_the_page_together_are_one_policy(tmp_path: Path) -> None:
    path = tmp_path / "quail.toml"
    path.write_text("\n".join(blocks("docs/policy.md", "toml")))
    policy = read_policy(str(path))
    assert policy.limits.model_copy(update={"where": ()}) == Limits()
    assert len(policy.rules) == 3
    assert policy.required.samples == {"verbmem_forget": 100}


@pytest.mark.slow
def test_the_commands_of_the_page_run(ran: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo = tmp_path / "quail-demo"
    demo.mkdir()
    for name, target in (("original", "original"), ("unlearned", "blank"), ("data", "data")):
        (demo / name).symlink_to(world / target)
    (tmp_path / ".quail" / "runs").mkdir(parents=True)
    (tmp_path / ".quail" / "runs" / "20260101-120000-ab12").symlink_to(ran)
    for command in commands("docs/policy.md"):
        done = quail(*command.split()[1:])
        expected = 1 if command.endswith("ab12") else 0
        assert done.exit_code == expected, (command, done.stderr)
