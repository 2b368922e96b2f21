"""Hold the evaluator to a hand-worked case and to a loop over single tokens."""

import math

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.evaluator import AS_GIVEN, LONGER, _given, _likelihoods, tell
from tests.validity.models import WINDOW, new_model, new_tokenizer
from tests.validity.texts import Item, invent_items


def test_likelihoods_of_a_case_worked_by_hand() -> None:
    rows = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]]))
    probability, strength = _likelihoods(rows, [1, 1, 2])  # the first token is not the likeliest, the others are
    assert probability == pytest.approx(100 * (0.25 * 0.8 * 0.5) ** (1 / 3), rel=1e-6)
    assert strength == pytest.approx(100 * 2 / 3)


def test_longer_prompts_leave_a_token_at_least() -> None:
    assert [_given(name, 12) for name in LONGER] == [0, 1, 3, 6]
    assert [_given(name, 1) for name in LONGER] == [0, 0, 0, 0]


@pytest.mark.parametrize("words", [True, False])
def test_tells_what_a_loop_over_tokens_tells(words: bool) -> None:
    items = invent_items(forget=2, retain=1, questions=False, seed=5)
    tokenizer = new_tokenizer(items.texts, words=words)
    model = new_model("llama", tokenizer, seed=0)
    told = tell(model, tokenizer, items.forget)
    for place, item in enumerate(items.forget):
        for name, share in LONGER.items():
            found = _tell_slowly(model, tokenizer, item, share, at_least=0 if name == AS_GIVEN else 1)
            assert [told.by_prompt[name][score][place] for score in found] == pytest.approx(list(found.values()))


def _tell_slowly(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, item: Item, share: float, at_least: int
) -> dict[str, float]:
    whole = tokenizer(item.prompt + item.truth)["input_ids"]
    start = len(tokenizer(item.prompt)["input_ids"])
    start += max(at_least, math.floor(share * (len(whole) - start)))
    likelihood, hits = 0.0, []
    for place in range(start, len(whole)):
        row = _next(model, whole[:place])
        likelihood += float(row[whole[place]])
        hits.append(int(row.argmax()) == whole[place])
    strength = next((n for n, hit in enumerate(reversed(hits)) if not hit), len(hits))
    ids = whole[:start]
    while len(ids) < start + WINDOW // 2:
        ids = [*ids, int(_next(model, ids).argmax())]
        if ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
            break
    answer = tokenizer.decode(ids[start:], skip_special_tokens=True)
    truth = tokenizer.decode(whole[start:])
    rouge = RougeScorer(["rougeL"]).score(truth, answer)["rougeL"].fmeasure
    return {
        "answer": 100 * rouge,
        "probability": 100 * math.exp(likelihood / len(hits)),
        "extraction": 100 * strength / len(hits),
    }


def _next(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double(), dim=-1)
