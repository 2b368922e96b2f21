"""Tiny tokenizers of many families, made in memory: what each puts around a text, and how it joins tokens."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_language_models import POSTS

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "[CLS]", "[SEP]", "[gMASK]", "<sop>")


def byte_level(before: str = "", after: str = "", **saved: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(POSTS, trainer)
    return _finish(bpe, before, after, **saved)


def metaspace(before: str = "<s>", after: str = "", **saved: Any) -> PreTrainedTokenizerFast:
    """BPE with ▁ for spaces, as Llama 2 and Mistral have it: the decoder strips the first space."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # learn no tokens across words
    bpe.train_from_iterator(POSTS, trainer)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([])
    return _finish(bpe, before, after, **saved)


def unigram(before: str = "", after: str = "</s>", **saved: Any) -> PreTrainedTokenizerFast:
    """Unigram with ▁ for spaces, as T5 has it, which ends every text."""
    model = Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=list(SPECIAL),
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    model.train_from_iterator(POSTS, trainer)
    return _finish(model, before, after, **saved)


def word_piece(before: str = "[CLS]", after: str = "[SEP]", **saved: Any) -> PreTrainedTokenizerFast:
    """Word pieces, as BERT has them: ## marks the middle of a word."""
    model = Tokenizer(models.WordPiece(unk_token="<unk>"))  # noqa: S106
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(SPECIAL), show_progress=False)
    model.train_from_iterator(POSTS, trainer)
    return _finish(model, before, after, **saved)


FAMILIES = {"byte-level": byte_level, "metaspace": metaspace, "unigram": unigram, "word pieces": word_piece}


def _finish(
    made: Tokenizer, before: str, after: str, *, cut_to: int | None = None, pad_to: int | None = None
) -> PreTrainedTokenizerFast:
    """Return it as transformers has it, with what it puts around a text, and the truncation and padding it saves."""
    parts = _specials(before), _specials(after)
    if any(parts):
        made.post_processor = processors.TemplateProcessing(
            single=[*parts[0], "$A", *parts[1]],
            special_tokens=[(token, made.token_to_id(token)) for token in {*parts[0], *parts[1]}],
        )
    if cut_to is not None:
        made.enable_truncation(cut_to, direction="left")
    if pad_to is not None:
        made.enable_padding(direction="left", length=pad_to, pad_id=2, pad_token="<pad>")  # noqa: S106
    library: Any = PreTrainedTokenizerFast  # transformers types no constructor
    found: PreTrainedTokenizerFast = library(
        tokenizer_object=made,
        bos_token="<s>",  # noqa: S106 - no passwords
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )
    return found


def _specials(text: str) -> Sequence[str]:
    return [token for token in text.replace(">", ">\n").replace("]", "]\n").split("\n") if token]
