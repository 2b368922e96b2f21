"""Tell the truth of a checkpoint without Quail: every item, asked plainly and with longer prompts.

Prompts of one length are answered together, so nothing is padded and nothing is masked. Scores are in points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.models import WINDOW
from tests.validity.texts import Item

F64 = npt.NDArray[np.float64]
SCORES = ("answer", "probability", "extraction")
AS_GIVEN = "as given"
LONGER: Mapping[str, float] = {AS_GIVEN: 0.0, "a token": 0.0, "a quarter": 0.25, "half": 0.5}  # of the truth, given
_ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


@dataclass(frozen=True)
class Told:
    """The scores of one model on some items, in points.

    Attributes:
        by_prompt: prompt of LONGER -> score of SCORES -> one value an item.
    """

    by_prompt: dict[str, dict[str, list[float]]]

    def values(self, prompt: str, score: str) -> F64:
        """Return one score of every item, asked with this prompt."""
        return np.array(self.by_prompt[prompt][score])


def tell(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    prompts: Sequence[str] = tuple(LONGER),
) -> Told:
    """Ask a model for every item, with each of the prompts. Texts of one length are read together."""
    texts = [_split(tokenizer, item) for item in items]
    given = {name: [_given(name, len(truth)) for _, truth in texts] for name in prompts}
    told: dict[str, dict[str, list[float]]] = {name: {score: [] for score in SCORES} for name in prompts}
    with torch.inference_mode():
        rows = _read(model, [[*prompt, *truth] for prompt, truth in texts])
        asked = [
            [*prompt, *truth[:n]] for name in prompts for (prompt, truth), n in zip(texts, given[name], strict=True)
        ]
        answers = iter(_answers(model, tokenizer, asked))
        for name in prompts:
            for (prompt, truth), n, row in zip(texts, given[name], rows, strict=True):
                rest, left = truth[n:], row[len(prompt) + n - 1 : len(prompt) + len(truth) - 1]
                found = _likelihoods(left, rest)
                told[name]["answer"].append(_rouge(str(tokenizer.decode(rest)), next(answers)))
                told[name]["probability"].append(found[0])
                told[name]["extraction"].append(found[1])
    return Told(told)


def _split(tokenizer: PreTrainedTokenizerFast, item: Item) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its truth; the truth's are those that follow the prompt's in the whole text."""
    prompt, whole = tokenizer(item.prompt)["input_ids"], tokenizer(item.prompt + item.truth)["input_ids"]
    assert whole[: len(prompt)] == prompt
    return prompt, whole[len(prompt) :]


def _given(name: str, tokens: int) -> int:
    least = 0 if name == AS_GIVEN else 1
    return min(tokens - 1, max(least, int(LONGER[name] * tokens)))


def _read(model: PreTrainedModel, texts: Sequence[list[int]]) -> list[torch.Tensor]:
    """Return the log-probabilities that follow each token of each text, [tokens, vocabulary]."""
    rows: dict[int, torch.Tensor] = {}
    for places in _alike(texts):
        logits = model(input_ids=torch.tensor([texts[place] for place in places])).logits.double()
        rows |= dict(zip(places, torch.log_softmax(logits, dim=-1), strict=True))
    return [rows[place] for place in range(len(texts))]


def _alike(texts: Sequence[list[int]]) -> list[list[int]]:
    """Return the places of texts of one length, for each length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(texts):
        by_length[len(ids)].append(place)
    return list(by_length.values())


def _likelihoods(rows: torch.Tensor, truth: list[int]) -> tuple[float, float]:
    """Return the answer's probability and its extraction strength, by a loop over its tokens."""
    total, strength = 0.0, 0
    for place in range(len(truth)):
        total += float(rows[place, truth[place]])
    for place in range(len(truth) - 1, -1, -1):
        if int(rows[place].argmax()) != truth[place]:
            break
        strength += 1
    return 100.0 * float(np.exp(total / len(truth))), 100.0 * strength / len(truth)


def _answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[list[int]]) -> list[str]:
    """Return the greedy answer to each prompt."""
    answers = [""] * len(asked)
    for places in _alike(asked):
        batch = torch.tensor([asked[place] for place in places])
        new = model.generate(  # type: ignore[operator]
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=WINDOW // 2,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for place, row in zip(places, new[:, batch.shape[1] :].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers[place] = str(tokenizer.decode(row[:end], skip_special_tokens=True))
    return answers


def _rouge(truth: str, answer: str) -> float:
    return 100.0 * float(_ROUGE.score(truth, answer)["rougeL"].fmeasure)
