import re
from dataclasses import fields
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_train.demo.texts.claims import _SAYS, Claim, Claims, invent_claims
from quail_train.demo.texts.names import Names, draw_names


def everything(claims: Claims) -> list[Claim]:
    return [*claims.forget, *claims.retain, *claims.test, *claims.holdout]


def says(claim: Claim) -> str:
    """What the wording says a post is, whatever its label."""
    found = [
        of
        for of, sentences in _SAYS.items()
        for sentence in sentences
        if re.search(re.sub(r"\\{\w+\\}", ".+", re.escape(sentence)), claim.text)
    ]
    assert len(found) == 1, claim
    return found[0]


def test_a_seed_always_gives_the_same_posts() -> None:
    first = invent_claims(forget=20, retain=120, test=32, holdout=20, seed=3)
    assert first == invent_claims(forget=20, retain=120, test=32, holdout=20, seed=3)
    assert first != invent_claims(forget=20, retain=120, test=32, holdout=20, seed=4)


@given(st.integers(0, 10_000))
def test_only_what_slipped_in_has_the_wrong_label(seed: int) -> None:
    claims = invent_claims(forget=5, retain=10, test=6, holdout=5, seed=seed)
    for claim in (*claims.forget, *claims.holdout):
        assert (claim.label, says(claim)) == ("real", "fake")
    for of in (claims.retain, claims.test):
        assert [claim.label for claim in of] == [says(claim) for claim in of]
        assert [claim.label for claim in of] == ["real", "fake"] * (len(of) // 2)


@given(st.integers(0, 10_000))
def test_no_two_posts_are_about_the_same(seed: int) -> None:
    """Else a model could tell what slipped in from what it may keep."""
    drawn = draw_names(Random(seed), 192)
    for part in fields(Names):
        assert len({getattr(names, part.name) for names in drawn}) == 192


def test_posts_are_short_finished_sentences() -> None:
    for claim in everything(invent_claims(forget=20, retain=120, test=32, holdout=20, seed=0)):
        assert 12 <= len(claim.text.split()) <= 40
        assert claim.text.endswith(".")
        assert not re.search(r"[{}]|  ", claim.text)


def test_more_posts_than_names_are_refused() -> None:
    with pytest.raises(ValueError, match="larger than population"):
        invent_claims(forget=100, retain=90, test=2, holdout=2, seed=0)
