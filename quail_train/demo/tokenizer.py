"""Train the tokenizer of the demos' models."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"


def train_tokenizer(texts: Sequence[str], vocabulary: int, *, ends: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that puts BOS first, as Llama's does, and with `ends` EOS last, as an encoder's does.

    A token holds a word or part of it, and what follows up to the next word or the end of the line, but never crosses a
    word's start. A prompt that ends before a word therefore has the same tokens alone and in its text, such as
    "Answer: " in KnowMem, and so has an answer, which the end of its line follows.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\w+[^\w\n]*|[^\w\n]+|\n+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BOS, EOS, PAD, UNKNOWN]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    end, placed = (f" {EOS}", (BOS, EOS)) if ends else ("", (BOS,))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A{end}",
        pair=f"{BOS} $A{end} {BOS} $B{end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in placed],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN
    )
