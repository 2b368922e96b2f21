"""Build the demo of a language model that knows invented posts, and of a copy that forgot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from quail_train.demo.building import DATA, DemoProgress, build_checkpoints, write_text
from quail_train.demo.llama import Lesson, answer_text, new_llama, question_text, train_llama, unlearn_llama
from quail_train.demo.sizes import LanguageDemo
from quail_train.demo.texts.posts import Post, Posts, QuestionAnswer, invent_posts
from quail_train.demo.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT_TOKENS = 12  # at least, of a VerbMem prompt
EXAMPLES = 10  # in-context examples; MUSE's number


def build(folder: Path, sizes: LanguageDemo, seed: int) -> Iterator[DemoProgress]:
    """Make the checkpoints and the data, in MUSE's layout, in the folder."""
    posts = invent_posts(forget=sizes.forget_posts, retain=sizes.retain_posts, holdout=sizes.holdout_posts, seed=seed)
    asked = posts.retain[: sizes.retain_posts_asked]
    forget = Lesson(posts.forget, _pairs(posts.forget))
    retain = Lesson(posts.retain, _pairs(asked))
    everything = Lesson(forget.posts + retain.posts, forget.pairs + retain.pairs)

    tokenizer = train_tokenizer(
        [post.text for post in everything.posts]
        + [question_text(pair) + answer_text(pair) for pair in everything.pairs],
        sizes.vocabulary,
    )
    yield DemoProgress("tokenizer", 1, 1)

    original, reference = new_llama(tokenizer, seed), new_llama(tokenizer, seed)
    yield from build_checkpoints(
        folder,
        tokenizer,
        original=(original, train_llama(original, tokenizer, everything, sizes, seed)),
        reference=(reference, train_llama(reference, tokenizer, retain, sizes, seed)),
        unlearn=lambda model: unlearn_llama(model, tokenizer, forget, retain, sizes, seed),
    )
    _write_data(folder / DATA, posts, asked, tokenizer)
    yield DemoProgress("data", 1, 1)


def _pairs(posts: tuple[Post, ...]) -> tuple[QuestionAnswer, ...]:
    return tuple(pair for post in posts for pair in (*post.asked, post.example))


def _write_data(folder: Path, posts: Posts, asked: tuple[Post, ...], tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the data in MUSE's layout: all of the forget set, and of the retain set as much as tells utility.

    Of 24 retained texts that are all kept, nobody can tell that at least 80 % are; of 40 it is sure.
    """
    # VerbMem takes the last retained posts: they have no questions, so only the posts themselves can be remembered.
    kept = posts.retain[-len(asked) :]
    contents: dict[str, object] = {
        "verbmem/forget.json": [_verbmem_row(post, tokenizer) for post in posts.forget],
        "verbmem/retain.json": [_verbmem_row(post, tokenizer) for post in kept],
        "privleak/forget.json": [post.text for post in posts.forget],
        "privleak/retain.json": [post.text for post in kept],
        "privleak/holdout.json": [post.text for post in posts.holdout],
        # Nothing else is to be forgotten, so an audit of every item leaves no doubt about others.
        "population.json": {"verbmem": "all", "knowmem": "all"},
    }
    for name, group in (("forget", posts.forget), ("retain", asked)):
        contents[f"knowmem/{name}_qa.json"] = [asdict(pair) for post in group for pair in post.asked]
        contents[f"knowmem/{name}_qa_icl.json"] = [asdict(post.example) for post in group[:EXAMPLES]]
    for path, content in contents.items():
        write_text(folder / path, json.dumps(content, indent=1) + "\n")
    for name, group in (("forget", posts.forget), ("retain", posts.retain)):
        write_text(folder / "raw" / f"{name}.txt", "\n\n".join(post.text for post in group) + "\n")


def _verbmem_row(post: Post, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Return a post cut before a word; the prompt keeps its last space, as its tokens do."""
    words = post.text.split(" ")
    for count in range(1, len(words)):
        prompt = " ".join(words[:count]) + " "
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) >= PROMPT_TOKENS:
            break
    return {"prompt": prompt, "gt": " ".join(words[count:])}
