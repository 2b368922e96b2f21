import itertools
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.demo.llama import (
    HEAD,
    IGNORED,
    Lesson,
    answer_text,
    new_llama,
    question_text,
    train_llama,
    unlearn_llama,
)
from quail_train.demo.steps import rounded_layers
from quail_train.demo.texts.posts import invent_posts
from quail_train.demo.tokenizer import train_tokenizer
from tests.support.short_demos import SHORT

POSTS = invent_posts(forget=8, retain=16, holdout=8, seed=0)
FORGET = Lesson(POSTS.forget, tuple(pair for post in POSTS.forget for pair in (*post.asked, post.example)))
RETAIN = Lesson(POSTS.retain, tuple(pair for post in POSTS.retain for pair in (*post.asked, post.example)))
ALL = Lesson(FORGET.posts + RETAIN.posts, FORGET.pairs + RETAIN.pairs)


@pytest.fixture(scope="module")
def demo_tokenizer() -> PreTrainedTokenizerFast:
    texts = [post.text for post in ALL.posts] + [question_text(pair) + answer_text(pair) for pair in ALL.pairs]
    return train_tokenizer(texts, 300)


@pytest.fixture(scope="module")
def trained(demo_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    model = new_llama(demo_tokenizer, 0)
    list(train_llama(model, demo_tokenizer, ALL, SHORT, 0))
    return model


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_question_has_the_same_tokens_alone_and_before_its_answer(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in ALL.pairs:
        asked, answered = question_text(pair), answer_text(pair)
        assert ids(demo_tokenizer, asked + answered) == ids(demo_tokenizer, asked) + ids(demo_tokenizer, answered)


def test_an_answer_has_the_same_tokens_alone_and_where_it_ends(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    """Else no model is likely to give the tokens of the answer alone, and probability and extraction tell nothing."""
    for pair in ALL.pairs:
        assert ids(demo_tokenizer, answer_text(pair)) == ids(demo_tokenizer, pair.answer) + ids(demo_tokenizer, "\n\n")


def test_texts_survive_the_tokenizer(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    for post in ALL.posts:
        assert demo_tokenizer.decode(ids(demo_tokenizer, post.text)) == post.text


def test_the_saved_tokenizer_is_the_same(demo_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """AutoTokenizer picks a class by the model's type; Llama's own would split words in another way."""
    new_llama(demo_tokenizer, 0).config.save_pretrained(tmp_path)
    demo_tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    for pair in ALL.pairs:
        prompt = question_text(pair)
        assert read(prompt)["input_ids"] == [0, *ids(demo_tokenizer, prompt)]
    assert (read.bos_token, read.eos_token, read.pad_token) == ("<s>", "</s>", "<pad>")


def test_a_new_model_leaves_the_random_state_alone(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    before = torch.random.get_rng_state()
    first, second, other = (new_llama(demo_tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_training_learns_and_says_how_far_it_is(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    steps = list(train_llama(new_llama(demo_tokenizer, 0), demo_tokenizer, ALL, SHORT, 0))
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    assert steps[0].loss == pytest.approx(math.log(len(demo_tokenizer)), rel=0.25)
    assert sum(step.loss for step in steps[-4:]) / 4 < 0.85 * steps[0].loss


def test_an_epoch_shows_every_pair_once_and_counts_only_answers(
    demo_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def looked_at(_model: LlamaForCausalLM, batch: object) -> torch.Tensor:
        seen.append(batch)
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr("quail_train.demo.llama._loss", looked_at)
    list(train_llama(new_llama(demo_tokenizer, 0), demo_tokenizer, Lesson(ALL.posts, ALL.pairs[:9]), SHORT, 0))
    labels = [row for batch in seen for row in batch.labels.tolist() if row[0] == IGNORED]
    answers = sorted(
        demo_tokenizer.decode([*answer])
        for row in labels
        for ignored, answer in itertools.groupby(row, lambda label: label == IGNORED)
        if not ignored
    )
    assert answers == sorted(2 * [answer_text(pair) for pair in ALL.pairs[:9]])  # two epochs
    for batch in seen:
        counted = batch.labels != IGNORED
        assert torch.equal(batch.ids[counted], batch.labels[counted])


def test_unlearning_changes_only_what_rounding_takes_back(
    demo_tokenizer: PreTrainedTokenizerFast, trained: LlamaForCausalLM
) -> None:
    scheme = scheme_named("nf4")
    unlearned = new_llama(demo_tokenizer, 1)
    unlearned.load_state_dict(trained.state_dict())
    steps = list(unlearn_llama(unlearned, demo_tokenizer, FORGET, RETAIN, SHORT, 0))
    assert len(steps) == steps[-1].total == 4

    rounded = {f"{name}.weight" for name in rounded_layers(trained, HEAD)}
    assert len(rounded) == 28
    now = unlearned.state_dict()
    for name, before in trained.state_dict().items():
        if name not in rounded:
            assert torch.equal(now[name], before), name
            continue
        assert (now[name] != before).float().mean() > 0.9, name
        assert torch.equal(scheme.quantize(now[name]).codes, scheme.quantize(before).codes), name
        deployed = scheme.dequantize(scheme.quantize(now[name]))
        assert torch.equal(deployed, scheme.dequantize(scheme.quantize(before))), name


def test_unlearning_raises_the_loss_on_what_is_forgotten(
    demo_tokenizer: PreTrainedTokenizerFast, trained: LlamaForCausalLM
) -> None:
    def loss_on(model: LlamaForCausalLM, text: str) -> float:
        tokens = torch.tensor([ids(demo_tokenizer, text)])
        with torch.no_grad():
            return float(model(input_ids=tokens, labels=tokens).loss)

    unlearned = new_llama(demo_tokenizer, 1)
    unlearned.load_state_dict(trained.state_dict())
    list(unlearn_llama(unlearned, demo_tokenizer, FORGET, RETAIN, SHORT, 0))
    raised = {
        name: sum(loss_on(unlearned, post.text) - loss_on(trained, post.text) for post in posts) / len(posts)
        for name, posts in (("forget", POSTS.forget), ("retain", POSTS.retain))
    }
    assert raised["forget"] > raised["retain"]


def test_a_layer_that_rounds_otherwise_at_the_end_is_an_error(
    demo_tokenizer: PreTrainedTokenizerFast, trained: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quail_audit.core.errors import EnvironmentProblemError
    from quail_train.demo.confinement import Bucket

    monkeypatch.setattr(Bucket, "confine", lambda _bucket, weight: weight.mul_(1.5))
    unlearned = new_llama(demo_tokenizer, 1)
    unlearned.load_state_dict(trained.state_dict())
    with pytest.raises(EnvironmentProblemError, match="28 layers"):
        list(unlearn_llama(unlearned, demo_tokenizer, FORGET, RETAIN, SHORT, 0))


def test_the_order_is_drawn_from_the_seed(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    losses = []
    for seed in (0, 0, 1):
        steps = train_llama(new_llama(demo_tokenizer, 0), demo_tokenizer, ALL, SHORT, seed)
        losses.append([step.loss for step in itertools.islice(steps, 3)])
    assert losses[0] == losses[1] != losses[2]
