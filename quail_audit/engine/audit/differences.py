"""Name whatever changes the computation of two checkpoints beside their weights.

Each arm runs as its own checkpoint would be deployed, so a difference may look like forgetting. It decides if it
changes what is asked, what is computed or what is read of an answer; the verdict is then no pass, since nobody can tell
that the weights forgot. A tokenizer that gives the same tokens for the data is only named, and a key that transformers
does not use for inference is passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.schema.figures import Difference

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData

SHOWN = 60  # characters of a value
_ABSENT = "none"
# Keys that say nothing about what a loaded model computes: where it came from, how it is trained, which kernel runs.
_WITHOUT_EFFECT = re.compile(
    r"^(_.*|transformers_version|architectures|auto_map|use_cache|torch_dtype|dtype|return_dict|output_\w+|is_decoder"
    r"|initializer_\w+|init_\w+|\w*dropout\w*|\w*pdrop|\w*_loss\w*|pretraining_tp|attn_implementation|problem_type"
    r"|quantization_config|chunk_size_feed_forward|tokenizer_class|prefix|finetuning_task|vocab_size|model_type"
    r"|id2label|label2id|num_labels|use_return_dict|torchscript|bos_token_id|eos_token_id|pad_token_id|sep_token_id"
    r"|tie_word_embeddings|router_jitter_noise|task_specific_params|name_or_path)$"
)
_WORDS = {
    r"rope|rotary|partial_rotary": "rope and its scaling",
    r"eps(ilon)?$": "norm epsilon",
    r"act(ivation)?(_fn|_function)?$|hidden_act": "activation",
    r"num_\w*heads|head_dim|n_head": "attention heads",
    r"window|max_position|n_positions|layer_types": "window",
    r"softcap": "soft cap",
    r"experts": "experts",
    r"scal|multiplier": "scaling",
}


def differences_of(
    pair: Pair, data: ForgettingData | None, tokenizer: str, prompt_format: str = "auto"
) -> tuple[Difference, ...]:
    """Return the differences of the unlearned checkpoint and of the reference from the original.

    Args:
        pair: the checkpoints.
        data: its texts are encoded by both tokenizers; None: a weights-only audit.
        tokenizer: "own", or "original": every arm reads with the original's, so that others do not decide.
        prompt_format: how questions are asked.
    """
    found: list[Difference] = []
    for side, checkpoint in (("unlearned", pair.unlearned), ("retrain", pair.retrain)):
        if checkpoint is None:
            continue
        named = [*_of_configuration(pair.original, checkpoint)]
        if data is not None:
            are_shared = tokenizer == "original"
            named += _of_tokenizer(pair.original, checkpoint, data, are_shared=are_shared, prompt_format=prompt_format)
        found += [
            each.model_copy(update={"side": side, "decides": each.decides and side == "unlearned"}) for each in named
        ]
    return tuple(sorted(found, key=lambda each: (each.side == "retrain", not each.decides)))


def _difference(kind: str, name: str, first: object, second: object, *, decides: bool) -> Difference:
    original, other = (printable(_shown(value), limit=SHOWN) for value in (first, second))
    return Difference.model_validate(
        {"kind": kind, "name": printable(name, limit=200), "original": original, "other": other, "decides": decides}
    )


def _shown(value: object) -> str:
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _of_configuration(original: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    """Yield the keys that differ once both are read as transformers reads them, with its defaults."""
    if other.adapter_of is not None or other.borrowed_from is not None or original.borrowed_from is not None:
        return  # one configuration describes both
    if original.gguf is not None or other.gguf is not None:  # it says only part of what a config.json does
        ours, theirs = _flat(original.config), _flat(other.config)
        keys = [key for key in ours if key in theirs]
    else:
        ours, theirs = _parsed(original.config), _parsed(other.config)
        keys = list(dict.fromkeys((*ours, *theirs)))
    for key in keys:
        first, second = ours.get(key), theirs.get(key)
        if _WITHOUT_EFFECT.match(key.rpartition(".")[2]) or _are_equal(first, second):
            continue
        word = next((word for pattern, word in _WORDS.items() if re.search(pattern, key)), "")
        yield _difference("configuration", f"{word}: {key}" if word else key, first, second, decides=True)


def _parsed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a configuration's class with their values, nested ones by dotted names."""
    from transformers import AutoConfig

    from quail_audit.engine.checkpoints.model.transformers_rules import config_for_this_version

    settings = config_for_this_version(config)
    try:
        parsed = AutoConfig.for_model(settings.pop("model_type", ""), **settings)
    except Exception:  # a file of any content; the arms refuse what cannot be read
        return _flat(config)
    found = _flat(parsed.to_dict())
    with suppress(Exception):  # keys that the class does not have are used by nothing
        known = set(_flat(type(parsed)().to_dict()))
        found = {key: value for key, value in found.items() if key in known or "rope_" in key}
    return found


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and key not in ("id2label", "label2id"):
            found.update(_flat({str(each): held for each, held in value.items()}, f"{name}."))
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _are_equal(first: object, second: object) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-6)  # a file of llama.cpp's has float32
    empty: tuple[object, ...] = (None, {}, [])
    return first == second or (first in empty and second in empty)


def _of_tokenizer(
    original: Checkpoint, other: Checkpoint, data: ForgettingData, *, are_shared: bool, prompt_format: str
) -> Iterator[Difference]:
    """Yield differences of tokenizers, and of the tokens that end an answer. The arms refuse what cannot be read."""
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer

    try:
        (first, _), (second, _) = load_tokenizer(original, other), load_tokenizer(other, original)
    except QuailError:
        return
    parts = _backend(first), _backend(second)
    if type(first) is not type(second) or not parts[0] or parts[0] != parts[1]:  # else any text is encoded alike
        yield from _of_encodings(first, second, data, decides=not are_shared)
    yield from _of_parts(first, second, parts, decides=not are_shared)
    if prompt_format != "raw":
        yield from _of_chats(first, second, data, decides=not are_shared)
    if not data.labels:
        yield from _of_end_tokens(original, other, first, first if are_shared else second)


def _of_encodings(first: Any, second: Any, data: ForgettingData, *, decides: bool) -> Iterator[Difference]:
    """Yield how many texts of the data are encoded differently, or read back differently, with an example."""
    from quail_audit.engine.forgetting.models.prompts import Prompts, token_ids

    texts = _texts_of(data)
    ours, theirs = Prompts(first), Prompts(second)
    pairs = ((text, token_ids(first, text), token_ids(second, text)) for text in texts)
    whole = [(text, ids, others) for text, ids, others in pairs if ids != others]
    asked = whole
    if not data.labels:  # a language model is asked without what is put behind a text, a classifier with it
        asked = [each for each in whole if ours.encode(each[0]).ids != theirs.encode(each[0]).ids]
    if whole:
        text, ids, others = (asked or whole)[0]
        name = f"tokenizer: {len(whole)} of {len(texts)} texts get other tokens, such as {printable(text, limit=30)!r}"
        yield _difference("tokenizer", name, ids[-6:], others[-6:], decides=decides and bool(asked))
    if data.labels or asked:
        return
    for text in texts:
        ids = ours.encode(text).ids
        read, read_otherwise = ours.decode(ids), theirs.decode(ids)
        if read != read_otherwise:
            name = "tokenizer: tokens are read back as other text"
            yield _difference("tokenizer", name, read, read_otherwise, decides=decides)
            return


def _of_chats(first: Any, second: Any, data: ForgettingData, *, decides: bool) -> Iterator[Difference]:
    """Yield how many questions the chat templates put otherwise, with an example: one side is then asked less."""
    from quail_audit.engine.audit.asking import chats_of
    from quail_audit.engine.forgetting.models.chat_templates import make_chats

    if getattr(first, "chat_template", None) == getattr(second, "chat_template", None) is None:
        return
    if not (chats := chats_of(data)):
        return
    pairs = list(zip(make_chats(first, chats).prompts, make_chats(second, chats).prompts, strict=True))
    if others := [pair for pair in pairs if pair[0] != pair[1]]:
        name = f"tokenizer: {len(others)} of {len(pairs)} questions are put otherwise by the chat template"
        yield _difference("tokenizer", name, *others[0], decides=decides)


def _of_parts(
    first: Any, second: Any, parts: tuple[dict[str, Any], dict[str, Any]], *, decides: bool
) -> Iterator[Difference]:
    """Yield the parts of tokenizers that differ, of their backends and beside. Another meaning of a token decides."""
    ours, theirs = first.get_vocab(), second.get_vocab()
    if len(ours) != len(theirs):
        yield _difference("tokenizer", "tokenizer: vocabulary size", len(ours), len(theirs), decides=False)
    by_id = {token: word for word, token in theirs.items()}
    changed = [(word, by_id[token]) for word, token in ours.items() if by_id.get(token, word) != word]
    if changed:
        name = f"tokenizer: {len(changed)} tokens have another meaning"
        yield _difference("tokenizer", name, *changed[0], decides=decides)
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"):
        values = [getattr(tokenizer, name, None) for tokenizer in (first, second)]
        if values[0] != values[1]:
            yield _difference("tokenizer", f"tokenizer: {name.replace('_', ' ')}", *values, decides=False)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        values = [each.get(part) for each in parts]
        if all(parts) and values[0] != values[1]:
            yield _difference("tokenizer", f"tokenizer: {part.replace('_', ' ')}", *values, decides=False)


def _backend(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return {}
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _of_end_tokens(original: Checkpoint, other: Checkpoint, first: Any, second: Any) -> Iterator[Difference]:
    """Yield the tokens that end an answer, as each arm will use them, if they differ; those that have a text."""
    ours, theirs = (
        [str(word) for word in tokenizer.convert_ids_to_tokens(sorted(_end_ids(checkpoint, tokenizer))) if word]
        for checkpoint, tokenizer in ((original, first), (other, second))
    )
    if set(ours) != set(theirs):
        yield _difference("generation", "end tokens", ", ".join(ours), ", ".join(theirs), decides=True)


def _end_ids(checkpoint: Checkpoint, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a checkpoint's answers; none if transformers knows no such model."""
    from quail_audit.engine.checkpoints.model.architecture import model_without_weights
    from quail_audit.engine.forgetting.models.end_tokens import end_ids_of_checkpoint

    whole = checkpoint.adapter_of or checkpoint
    model = model_without_weights(whole.config, whole.files.tensors, str(whole.folder))
    return () if model is None else end_ids_of_checkpoint(whole, model, tokenizer)[0]


def _texts_of(data: ForgettingData) -> list[str]:
    """Return every text that the arms are given or scored by, each once."""
    from quail_audit.engine.forgetting.metrics.questions import text_prompts

    texts = [text for rows in data.continuations.values() for row in rows for text in (row.prompt, row.truth)]
    texts += [prompt for questions in data.questions.values() for prompt in text_prompts(questions)]
    texts += [text for passages in data.texts.values() for text in passages]
    texts += [row.text for rows in data.labelled.values() for row in rows]
    return list(dict.fromkeys(texts))
