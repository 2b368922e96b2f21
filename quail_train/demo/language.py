"""Builds the demo of a language model: it knows invented posts, a copy of it was made to forget some of them.

Not here: how the models are made (demo_model.py), the folder and whether it is used again (demo.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from quail_train.demo.building import DATA, DemoProgress, build_checkpoints, write
from quail_train.demo.llama import Lesson, answered_as, asked_as, new_model, train, unlearn_confined
from quail_train.demo.sizes import LanguageDemo
from quail_train.demo.texts.posts import Post, Posts, QuestionAnswer, invent_posts
from quail_train.demo.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT_TOKENS = 12  # of VerbMem, at least
EXAMPLES = 10  # in context; MUSE's number


def build(folder: Path, recipe: LanguageDemo, seed: int) -> Iterator[DemoProgress]:
    """Make the checkpoints and the data, in MUSE's layout, in the folder."""
    posts = invent_posts(
        forget=recipe.forget_posts, retain=recipe.retain_posts, holdout=recipe.holdout_posts, seed=seed
    )
    asked = posts.retain[: recipe.retain_posts_asked]
    forget = Lesson(posts.forget, _pairs(posts.forget))
    retain = Lesson(posts.retain, _pairs(asked))
    everything = Lesson(forget.posts + retain.posts, forget.pairs + retain.pairs)

    tokenizer = train_tokenizer(
        [post.text for post in everything.posts] + [asked_as(pair) + answered_as(pair) for pair in everything.pairs],
        recipe.vocabulary,
    )
    yield DemoProgress("tokenizer", 1, 1)

    original, reference = new_model(tokenizer, seed), new_model(tokenizer, seed)
    yield from build_checkpoints(
        folder,
        tokenizer,
        original=(original, train(original, tokenizer, everything, recipe, seed)),
        reference=(reference, train(reference, tokenizer, retain, recipe, seed)),
        unlearn=lambda model: unlearn_confined(model, tokenizer, forget, retain, recipe, seed),
    )
    _write_data(folder / DATA, posts, asked, tokenizer)
    yield DemoProgress("data", 1, 1)


def _pairs(posts: tuple[Post, ...]) -> tuple[QuestionAnswer, ...]:
    return tuple(pair for post in posts for pair in (*post.asked, post.example))


def _write_data(folder: Path, posts: Posts, asked: tuple[Post, ...], tokenizer: PreTrainedTokenizerFast) -> None:
    """MUSE's layout. The retain set is asked as much as the forget set, give or take."""
    # The last retained posts for VerbMem: they have no questions, so it is the posts alone that are remembered.
    kept = posts.retain[-len(posts.forget) :]
    contents: dict[str, object] = {
        "verbmem/forget.json": [_verbmem_row(post, tokenizer) for post in posts.forget],
        "verbmem/retain.json": [_verbmem_row(post, tokenizer) for post in kept],
        "privleak/forget.json": [post.text for post in posts.forget],
        "privleak/retain.json": [post.text for post in kept],
        "privleak/holdout.json": [post.text for post in posts.holdout],
    }
    for name, group in (("forget", posts.forget), ("retain", asked[: len(posts.forget)])):
        contents[f"knowmem/{name}_qa.json"] = [asdict(pair) for post in group for pair in post.asked]
        contents[f"knowmem/{name}_qa_icl.json"] = [asdict(post.example) for post in group[:EXAMPLES]]
    for path, content in contents.items():
        write(folder / path, json.dumps(content, indent=1) + "\n")
    for name, group in (("forget", posts.forget), ("retain", posts.retain)):
        write(folder / "raw" / f"{name}.txt", "\n\n".join(post.text for post in group) + "\n")


def _verbmem_row(post: Post, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """A post cut before a word: the prompt keeps its last space, as its tokens do."""
    words = post.text.split(" ")
    for count in range(1, len(words)):
        prompt = " ".join(words[:count]) + " "
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) >= PROMPT_TOKENS:
            break
    return {"prompt": prompt, "gt": " ".join(words[count:])}
