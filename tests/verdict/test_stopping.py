"""When to look, and what is decided then: cases by hand, and a scheme that was stopped beside one that goes on."""

from __future__ import annotations

import random

from quail_audit.schema.policy import Policy, Requirements, Rule
from quail_audit.schema.report import Report
from quail_audit.verdict.evidence import weigh
from quail_audit.verdict.stopping import decisions, looks, required_items
from tests.verdict.test_evidence import arms, audited

KNOWN, GONE = [100.0], [0.0]


def test_each_look_asks_as_much_again_and_the_last_asks_all() -> None:
    assert list(looks(100)) == [8, 16, 32, 64, 100]
    assert list(looks(64)) == [8, 16, 32, 64]
    assert list(looks(5)) == [5]
    assert list(looks(100, required=20)) == [32, 64, 100]


def test_what_comes_back_is_told_by_few_items_and_what_holds_by_thirty() -> None:
    """29 items without one that is back exclude 10 % (0.9 ** 28 is above 5 %, 0.9 ** 29 below), no fewer."""

    def decided(deployed: list[float], items: int) -> dict[str, str]:
        scores = arms(KNOWN * items, GONE * items, deployed * items, GONE * items)
        return dict(decisions(audited({"verbmem_forget": scores}), Policy()))

    assert decided(KNOWN, 8) == {"nf4": "fails"}
    assert decided(GONE, 28) == {}
    assert decided(GONE, 32) == {"nf4": "holds"}


def test_a_metric_that_is_open_keeps_its_scheme_open() -> None:
    holds = arms(KNOWN * 32, GONE * 32, GONE * 32, GONE * 32)
    few = arms(KNOWN * 10, GONE * 10, GONE * 10, GONE * 10)
    assert decisions(audited({"verbmem_forget": holds, "knowmem_forget": few}), Policy()) == {}
    nothing = arms(GONE * 10, GONE * 10, GONE * 10, GONE * 10)
    assert decisions(audited({"verbmem_forget": holds, "knowmem_forget": nothing}), Policy()) == {"nf4": "holds"}
    assert decisions(audited({"verbmem_forget": nothing}), Policy()) == {}


def test_rules_of_the_policy_want_every_item_unless_the_scheme_fails() -> None:
    policy = Policy(rules=(Rule(name="strict", figure="known", at_most=2.0),))
    for deployed, expected in ((GONE, {}), (KNOWN, {"nf4": "fails"})):
        scores = arms(KNOWN * 40, GONE * 40, deployed * 40, GONE * 40)
        assert decisions(audited({"verbmem_forget": scores}), policy) == expected
    asked = Policy(required=Requirements(samples={"verbmem_forget": 20, "nll_forget": 90}))
    assert required_items(asked) == 20


def two_schemes(stopped: int, items: int, full: list[float]) -> Report:
    """nf4 was stopped after so many items, none of which is back; fp4 and full precision were asked more."""
    scores = {
        "original/full": KNOWN * items,
        "unlearned/full": full,
        "retrain/full": GONE * items,
        "original/nf4": KNOWN * stopped,
        "unlearned/nf4": GONE * stopped,
        "original/fp4": KNOWN * items,
        "unlearned/fp4": full,
    }
    return audited({"verbmem_forget": scores}, schemes=("nf4", "fp4"))


def test_a_scheme_that_was_stopped_fails_with_what_full_precision_shows_later() -> None:
    """None of the first 40 items was kept, half of the next 40 were: that counts at each scheme."""
    assert decisions(two_schemes(40, 40, GONE * 40), Policy()) == {"nf4": "holds", "fp4": "holds"}
    later = two_schemes(40, 80, GONE * 40 + KNOWN * 20 + GONE * 20)
    assert decisions(later, Policy()) == {"nf4": "fails", "fp4": "fails"}
    found = weigh(later, Policy().limits).knowledge
    for scheme in ("nf4", "fp4"):
        kept = found[scheme]["verbmem_forget"].kept
        assert kept is not None
        assert (kept.count, kept.items, kept.standing) == (20, 80, "above")
    back = found["nf4"]["verbmem_forget"].back
    assert back is not None
    assert back.items == 40, "as deployed it was asked no more"


def test_stopping_at_the_first_decision_passes_no_leak_oftener_than_at_the_end() -> None:
    """At most 5 of 100 draws may hold if more than the limit are back, however often one looks."""
    draws = random.Random(1)
    passed = 0
    for _ in range(100):
        back = [KNOWN[0] if draws.random() < 0.13 else GONE[0] for _ in range(128)]
        for look in looks(128):
            scores = arms(KNOWN * look, GONE * look, back[:look], GONE * look)
            if found := decisions(audited({"verbmem_forget": scores}), Policy()):
                passed += found["nf4"] == "holds"
                break
    assert passed <= 12, "a binomial count of a 5 % chance in 100 is above 12 once in five hundred times"
