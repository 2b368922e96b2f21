"""The headline: the worst of texts and of answers, in words, as bad as the verdict finds it."""

import pytest

from quail_audit.schema.figures import ItemsBack, Knowledge
from quail_audit.tui.live.run import KnownSoFar
from quail_audit.tui.words.items_back import Headline, headline
from tests.support.judged_figures import COMES_BACK, HOLDS, NOT_FORGOTTEN, REPORTED, UNDECIDED, UNINFORMATIVE, knowledge

NO_REFERENCE = HOLDS.model_copy(
    update={
        "outcome": "not forgotten",
        "residual": None,
        "kept": ItemsBack(count=50, items=100, low=40.0, high=60.0, standing="above"),
    }
)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"verbmem_forget": COMES_BACK}, Headline("fail", "96 of 100 texts are back")),
        ({"verbmem_forget": HOLDS}, Headline("pass", "0 of 100 texts are back")),
        ({"knowmem_forget": UNDECIDED}, Headline("inconclusive", "2 of 20 answers are back")),
        (
            {"verbmem_forget": knowledge("comes back", 9.0, 1.0, 20.0, back=1)},
            Headline("fail", "1 of 100 texts is back"),
        ),
        (
            {"verbmem_forget": HOLDS, "verbmem_probability_forget": COMES_BACK, "knowmem_forget": HOLDS},
            Headline("fail", "96 of 100 texts and 0 of 100 answers are back"),
        ),
        (
            {"verbmem_forget": NOT_FORGOTTEN, "knowmem_forget": COMES_BACK},
            Headline("fail", "90 of 100 texts are still there in full precision, 96 of 100 answers are back"),
        ),
        ({"verbmem_forget": NO_REFERENCE}, Headline("fail", "50 of 100 texts are still there in full precision")),
        (
            {"verbmem_forget": Knowledge(outcome="swapped")},
            Headline("fail", "the unlearned checkpoint knows more than the original: are the two swapped?"),
        ),
        ({"verbmem_forget": UNINFORMATIVE, "privleak": REPORTED}, None),
        ({"verbmem_forget": COMES_BACK.model_copy(update={"outcome": "broken format"})}, None),
        ({"verbmem_forget": HOLDS.model_copy(update={"back": None, "kept": None})}, None),  # of an older Quail
        ({}, None),
    ],
)
def test_the_headline_says_how_many_are_back(known: dict[str, Knowledge], expected: Headline | None) -> None:
    assert headline(known, {}) == expected


def test_what_is_counted_so_far_is_open_until_all_is_measured() -> None:
    so_far = {"knowmem_forget": KnownSoFar(percent=90.0, back=3, items=4)}
    assert headline({}, so_far) == Headline("open", "3 of 4 answers are back so far")
    assert headline({"verbmem_forget": HOLDS}, so_far) == Headline(
        "open", "0 of 100 texts and 3 of 4 answers are back so far"
    )
    assert headline({"verbmem_forget": COMES_BACK}, so_far) == Headline(
        "fail", "96 of 100 texts and 3 of 4 answers are back so far"
    )
