"""Two reports held against each other: figures worked by hand, and what must hold whichever comes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.schema.figures import Estimate, Knowledge, LayerStatistics, Score
from quail_audit.schema.report import Report, SchemeReport
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.comparison import Change, LayerChange, caveats, compare_scheme, lower_is_better, schemes_of
from tests.support.judged_figures import HOLDS, NOT_FORGOTTEN, REPORTED, UNINFORMATIVE, knowledge
from tests.support.small_run import REQUEST, layer


def score(mean: float, half: float = 1.0) -> Score:
    return Score(mean=mean, low=mean - half, high=mean + half, samples=24)


def report(
    *layers: LayerStatistics,
    metrics: dict[str, dict[str, Score]] | None = None,
    known: dict[str, Knowledge] | None = None,
    scheme: str = "nf4",
    request: AuditRequest = REQUEST,
) -> Report:
    return Report(
        quail_version="0.1.0",
        run_id="20260101-120000-ab12",
        started="2026-01-01T12:00:00+00:00",
        finished=None,
        exit_code=None,
        request=request,
        environment={},
        checkpoints={},
        left_in_full_precision=(),
        samples={},
        skipped={},
        arms={},
        notes=(),
        verdict=None,
        failure=None,
        schemes={scheme: SchemeReport(summary=None, layers=layers, metrics=metrics or {}, knowledge=known or {})},
    )


def standing_of(metric: str, before: Score, after: Score, arm: str = "unlearned/nf4") -> Change:
    found = compare_scheme(
        report(metrics={metric: {arm: before}}), report(metrics={metric: {arm: after}}), "nf4"
    ).scores
    assert len(found) == 1
    return found[0].standing


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("verbmem_forget", True),
        ("knowmem_forget", True),
        ("accuracy_forget", True),
        ("verbmem_retain", False),
        ("knowmem_retain", False),
        ("accuracy_retain", False),
        ("nll_forget", False),
        ("nll_retain", True),
        ("privleak", None),
        ("somebodys_own", None),
    ],
)
def test_which_way_is_better(metric: str, lower: bool | None) -> None:
    assert lower_is_better(metric) is lower


@pytest.mark.parametrize(
    ("metric", "before", "after", "standing"),
    [
        ("verbmem_forget", score(95), score(20), "better"),
        ("verbmem_forget", score(20), score(95), "worse"),
        ("verbmem_forget", score(20, 2), score(23, 2), "same"),  # 18 to 22 and 21 to 25 overlap
        ("verbmem_forget", score(20, 2), score(24, 2), "same"),  # they touch
        ("verbmem_retain", score(97), score(60), "worse"),
        ("nll_forget", score(0.1, 0.01), score(7, 0.5), "better"),
        ("nll_retain", score(0.1, 0.01), score(0.5, 0.01), "worse"),
        ("privleak", score(2), score(60), "changed"),
    ],
)
def test_scores_are_better_worse_or_the_same(metric: str, before: Score, after: Score, standing: Change) -> None:
    assert standing_of(metric, before, after) == standing


def test_another_score_of_the_original_is_neither_better_nor_worse() -> None:
    assert standing_of("verbmem_forget", score(95), score(20), arm="original/nf4") == "changed"


def test_a_score_that_is_missing_is_unknown_and_has_no_difference() -> None:
    (change,) = compare_scheme(report(metrics={"nll_forget": {"unlearned/full": score(1)}}), report(), "nf4").scores
    assert (change.standing, change.difference, change.after) == ("unknown", None, None)


def test_differences_are_after_less_before() -> None:
    arms = {"unlearned/full": score(40)}
    (change,) = compare_scheme(
        report(metrics={"verbmem_forget": arms}),
        report(metrics={"verbmem_forget": {"unlearned/full": score(15)}}),
        "nf4",
    ).scores
    assert change.difference == -25


def test_the_checkpoint_that_changes_comes_first_full_then_rounded() -> None:
    arms = dict.fromkeys(("original/full", "retrain/full", "unlearned/nf4", "original/nf4", "unlearned/full"), score(1))
    found = compare_scheme(report(metrics={"nll_forget": arms}), report(), "nf4").scores
    assert [change.arm for change in found] == [
        "unlearned/full",
        "unlearned/nf4",
        "original/full",
        "original/nf4",
        "retrain/full",
    ]


@pytest.mark.parametrize(
    ("before", "after", "standing"),
    [
        (knowledge("comes back", 97, 91, 103), knowledge("holds", 2, 1, 3), "better"),
        (
            knowledge("holds", 2, 0, 6),
            knowledge("holds", 4, 0, 9),
            "same",
        ),
        (NOT_FORGOTTEN, knowledge("holds", 0, 0, 1), "better"),
        (knowledge("holds", 0, 0, 1), NOT_FORGOTTEN, "worse"),
        (NOT_FORGOTTEN, NOT_FORGOTTEN, "same"),
        (UNINFORMATIVE, HOLDS, "unknown"),
        (REPORTED, REPORTED.model_copy(update={"known": Estimate(percent=1, low=0, high=3, items=40)}), "changed"),
    ],
)
def test_less_that_is_known_is_better(before: Knowledge, after: Knowledge, standing: Change) -> None:
    one = report(known={"verbmem_forget": before})
    other = report(known={"verbmem_forget": after})
    (change,) = compare_scheme(one, other, "nf4").knowledge
    assert change.standing == standing


def test_layers_are_paired_by_name_and_their_states_counted() -> None:
    carried = {"state": "carried", "at_risk": False, "overlap": 0.8, "survival": 0.98}
    before = report(layer("a"), layer("b"), layer("c", **carried), layer("gone"))
    after = report(layer("b", **carried), layer("a", **carried), layer("c", **carried), layer("new"))
    found = compare_scheme(before, after, "nf4")
    assert [change.name for change in found.layers] == ["a", "b", "c"]
    assert (found.only_before, found.only_after) == (("gone",), ("new",))
    assert found.states == ((("erased", "carried"), 2), (("carried", "carried"), 1))
    assert [change.standing for change in found.layers] == ["better", "better", "same"]


def test_a_change_of_state_is_larger_than_any_within_one() -> None:
    within = LayerChange(layer(overlap=0.0, survival=0.0), layer(overlap=1.0, survival=0.49))
    across = LayerChange(layer(), layer(state="drowned"))
    assert across.size > within.size > LayerChange(layer(), layer()).size == 0


def test_a_layer_that_leaves_risk_is_better_one_that_enters_it_worse() -> None:
    safe = layer(state="carried", at_risk=False)
    assert LayerChange(layer(), safe).standing == "better"
    assert LayerChange(safe, layer()).standing == "worse"
    assert LayerChange(layer(), layer(state="drowned")).standing == "changed"


def test_schemes_of_one_run_only_are_told() -> None:
    before = REQUEST.model_copy(update={"schemes": ("nf4", "fp4")})
    after = REQUEST.model_copy(update={"schemes": ("int8", "nf4")})
    found = schemes_of(before, after)
    assert (found.both, found.only_before, found.only_after) == (("nf4",), ("fp4",), ("int8",))


def test_a_scheme_that_a_report_lacks_counts_as_empty() -> None:
    found = compare_scheme(report(layer("a"), scheme="fp4"), report(layer("a")), "nf4")
    assert (found.layers, found.only_after) == ((), ("a",))


def test_runs_of_other_data_say_so() -> None:
    assert caveats(REQUEST, REQUEST.model_copy(update={"unlearned": "repaired"})) == ()
    assert caveats(REQUEST, REQUEST.model_copy(update={"data": None, "max_samples": 5})) == (
        "different data: data and none",
        "different samples: all and 5",
    )


scores = st.builds(
    lambda mean, low, high: Score(mean=mean, low=mean - low, high=mean + high, samples=2),
    st.floats(0, 100),
    st.floats(0, 20),
    st.floats(0, 20),
)
OPPOSITE = {"better": "worse", "worse": "better"}


@given(scores, scores, st.sampled_from(["verbmem_forget", "nll_forget", "knowmem_retain", "privleak"]))
def test_what_is_better_one_way_is_worse_the_other(before: Score, after: Score, metric: str) -> None:
    standing = standing_of(metric, before, after)
    assert standing_of(metric, after, before) == OPPOSITE.get(standing, standing)
