"""The line beside the verdict and the cells of the tables, for every outcome that a metric can have."""

from typing import Any, get_args

import pytest

from quail_audit.reports import findings, html, markdown
from quail_audit.schema.figures import Estimate, ItemsBack, Knowledge, KnowledgeOutcome
from quail_audit.schema.policy import Limits
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.verdict.forgetting_rules import judge_knowledge
from quail_audit.verdict.standings import standing_of
from tests.support.judged_figures import COMES_BACK, HOLDS, NOT_FORGOTTEN, REPORTED, UNDECIDED, knowledge
from tests.support.small_run import SUMMARY, events, layer, report_of

NONE_KEPT = NOT_FORGOTTEN.model_copy(update={"kept": ItemsBack(count=0, items=100, low=0, high=4)})
OLDER = Knowledge(outcome="holds", known=Estimate(percent=2.4, low=0.0, high=6.0, items=24))


def scheme_of(**known: Knowledge) -> SchemeReport:
    return SchemeReport(summary=SUMMARY, layers=(layer(),), metrics={}, knowledge=known)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (COMES_BACK, "96 of 100 texts are back at nf4 (VerbMem)"),
        (HOLDS, "0 of 100 texts are back at nf4 (VerbMem)"),
        (UNDECIDED, "2 of 20 texts are back at nf4 (VerbMem)"),
        (NOT_FORGOTTEN, "90 of 100 texts are still known in full precision (VerbMem)"),
        (NONE_KEPT, "92 % of what there was to forget is still known in full precision (VerbMem, n = 100)"),
        (OLDER, "2 % of what there was to forget is known at nf4 (VerbMem, n = 24)"),
        (Knowledge(outcome="not forgotten"), "what there was to forget is still known in full precision (VerbMem)"),
        (
            knowledge("swapped", 0, 0, 0),
            "the unlearned checkpoint knows more than the original: are the two swapped?",
        ),
        (knowledge("broken format", 0, 0, 0), "forgetting cannot be told at nf4: the format breaks the model"),
        (
            Knowledge(outcome="uninformative"),
            "forgetting cannot be told: the original knew hardly more than the floor",
        ),
        (Knowledge(outcome="no floor"), "forgetting cannot be told: there is no floor"),
    ],
)
def test_the_headline_says_what_is_back_or_why_that_cannot_be_told(found: Knowledge, said: str) -> None:
    each = standing_of("nf4", scheme_of(verbmem_forget=found))
    assert findings.scheme_headline(each) == said


@pytest.mark.parametrize("outcome", get_args(KnowledgeOutcome))
@pytest.mark.parametrize("bare", [True, False])
def test_every_outcome_has_a_headline_and_a_row(outcome: KnowledgeOutcome, bare: bool) -> None:
    found = Knowledge(outcome=outcome) if bare else knowledge(outcome, 12.0, 3.0, 30.0, back=4, items=32)
    measured = scheme_of(knowmem_forget=found)
    assert findings.scheme_headline(standing_of("nf4", measured))
    rows = [*findings.knowledge_rows(measured), *findings.membership_rows(measured)]
    assert len(rows) == 1


def test_the_headline_is_of_the_metric_with_most_back_and_its_reason_comes_first() -> None:
    few, many = (knowledge("comes back", 50.0, 40.0, 60.0, back=number, items=32) for number in (9, 30))
    found = {"knowmem_probability_forget": many, "verbmem_forget": many, "accuracy_forget": few, "privleak": REPORTED}
    each = standing_of("nf4", scheme_of(**found))
    assert findings.scheme_headline(each) == "30 of 32 texts are back at nf4 (VerbMem)"
    reasons = [check.reason.message for check in judge_knowledge("nf4", found, Limits())]
    assert [reason.split()[0] for reason in reasons] == [
        "verbmem_forget",
        "knowmem_probability_forget",
        "accuracy_forget",
    ]


def test_what_cannot_be_told_beside_what_holds_does_not_lead() -> None:
    broken = knowledge("broken format", 0.0, 0.0, 0.0)
    each = standing_of("nf4", scheme_of(verbmem_forget=broken, knowmem_forget=HOLDS))
    assert findings.scheme_headline(each) == "0 of 100 answers are back at nf4 (KnowMem)"


def test_a_report_says_how_many_there_are_in_all() -> None:
    def of(**population: Any) -> Report:
        return report_of(*events()).model_copy(update={"population": population})

    said = "asked of all that there is to forget: VerbMem 1 of 96"
    assert findings.population_line(of(verbmem_forget=96, knowmem_forget=7)) == said
    assert findings.population_line(of()) == ""
    assert said in markdown.render(of(verbmem_forget=96))
    assert said in "".join(html.render(of(verbmem_forget=96), []))
