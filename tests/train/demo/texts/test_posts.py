import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_train.demo.texts.posts import Post, Posts, invent_posts


def everything(posts: Posts) -> list[Post]:
    return [*posts.forget, *posts.retain, *posts.holdout]


def test_a_seed_always_gives_the_same_posts() -> None:
    first = invent_posts(forget=24, retain=136, holdout=24, seed=3)
    assert first == invent_posts(forget=24, retain=136, holdout=24, seed=3)
    assert first != invent_posts(forget=24, retain=136, holdout=24, seed=4)


@given(st.integers(0, 10_000))
def test_every_post_answers_its_own_questions_and_no_other_post_does(seed: int) -> None:
    """Else a model could answer on the forget set from what it may keep."""
    posts = everything(invent_posts(forget=24, retain=136, holdout=24, seed=seed))
    for place, post in enumerate(posts):
        for pair in (*post.asked, post.example):
            assert pair.answer in post.text
            assert not any(pair.answer in other.text for other in posts[:place] + posts[place + 1 :])


@given(st.integers(0, 10_000))
def test_no_question_is_asked_twice_and_an_example_gives_no_answer_away(seed: int) -> None:
    posts = everything(invent_posts(forget=24, retain=136, holdout=24, seed=seed))
    questions = [pair.question for post in posts for pair in (*post.asked, post.example)]
    assert len(set(questions)) == len(questions)
    for post in posts:
        for pair in post.asked:
            assert pair.answer not in post.example.question + post.example.answer


def test_posts_are_short_finished_sentences() -> None:
    for post in everything(invent_posts(forget=24, retain=136, holdout=24, seed=0)):
        assert 15 <= len(post.text.split()) <= 40
        assert post.text.endswith(".")
        assert not re.search(r"[{}]|  ", post.text)


def test_more_posts_than_names_are_refused() -> None:
    with pytest.raises(ValueError, match="larger than population"):
        invent_posts(forget=100, retain=100, holdout=0, seed=0)
