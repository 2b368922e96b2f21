"""Read what differs by family from a model's configuration: window, sizes, special tokens.

Families name the same thing differently, nest it under another name, or give a list with a value for each layer. The
tables below are the one place that knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Tokenizers and configurations write a number as large as this, or larger, if they know of no window.
LARGEST_WINDOW = 10**9

# Names of the same thing, the binding one first: a table of positions ends, a length of training can be passed.
_WINDOWS = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "max_context_length",
    "n_ctx",
    "seq_length",
    "seq_len",
    "context_length",
    "model_max_length",
)
_HIDDEN_SIZES = ("hidden_size", "d_model", "n_embd", "model_dim", "dim", "emb_dim", "embedding_dim")
_LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_transformer_layers",
    "num_blocks",
)
# Some only list the kind of each layer.
_KINDS_OF_LAYERS = ("layer_types", "layers_block_type", "block_types")
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "decoder_attention_heads",
    "num_decoder_attention_heads",
    "num_query_heads",
    "num_heads",
    "attention_heads",
)
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num")
_HEAD_SIZES = (
    "head_dim",
    "global_head_dim",
    "qk_head_dim",
    "v_head_dim",
    "attention_head_size",
    "attention_head_dim",
    "head_size",
    "kv_channels",
    "dim_head",
    "d_kv",
)
_INTERMEDIATE_SIZES = (
    "intermediate_size",
    "ffn_dim",
    "decoder_ffn_dim",
    "n_inner",
    "d_ff",
    "dim_ff",
    "dff",
    "ffn_hidden_size",
    "feed_forward_size",
    "moe_intermediate_size",
)
_VOCABULARIES = ("vocab_size", "n_words", "n_vocab", "padded_vocab_size", "vocabulary_size")

# Under these names a configuration of several models has its language model's.
_TEXT_CONFIGS = (
    "text_config",
    "decoder",
    "generator",
    "llm_config",
    "language_config",
    "thinker_config",
    "global_config",
)
# Under these names MPT and DBRX have the settings of their attention and feed-forward blocks.
_BLOCK_CONFIGS = ("attn_config", "ffn_config")
# The first position of these is the one after the padding token's id, so their table is for fewer tokens than its rows.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)


@dataclass(frozen=True)
class ModelConfig:
    """A language model's sizes and special tokens, by one name each; None if its configuration does not say.

    Attributes:
        window: tokens of a text that the model has positions for, or was made for; None if nothing bounds them.
        hidden_size: features of a token between layers.
        layers: number of its blocks.
        heads: of an attention layer, the largest number if layers differ, as in the sizes below.
        key_value_heads: as many as heads if nothing else is said.
        head_size: features of a head.
        intermediate_size: of a feed-forward block, or of one expert.
        vocabulary: rows of its embedding.
        begin_id: the token that begins a text.
        end_ids: the tokens that end a text, possibly none.
        padding_id: the token that fills rows up.
    """

    window: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None
    vocabulary: int | None = None
    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    padding_id: int | None = None


def read_model_config(config: Any) -> ModelConfig:
    """Return what a configuration says of its language model.

    Args:
        config: a configuration of transformers, or a parsed config.json. What it lacks or says in no way that is known
            becomes None; nothing is raised.
    """
    levels = _levels(config)
    hidden, heads = _first_size(levels, _HIDDEN_SIZES), _first_size(levels, _HEADS)
    head_size = max(filter(None, (_size(levels, name) for name in _HEAD_SIZES)), default=None)
    if head_size is None and hidden is not None and heads is not None:
        head_size = max(1, hidden // heads)
    return ModelConfig(
        window=_window(levels),
        hidden_size=hidden,
        layers=_first_size(levels, _LAYERS) or _length(levels, _KINDS_OF_LAYERS),
        heads=heads,
        key_value_heads=_first_size(levels, _KEY_VALUE_HEADS) or heads,
        head_size=head_size,
        intermediate_size=_first_size(levels, _INTERMEDIATE_SIZES),
        vocabulary=_first_size(levels, _VOCABULARIES),
        begin_id=next(iter(_token_ids(levels, "bos_token_id")), None),
        end_ids=_token_ids(levels, "eos_token_id"),
        padding_id=next(iter(_token_ids(levels, "pad_token_id")), None),
    )


def _levels(config: Any) -> tuple[Any, ...]:
    """Return the configurations to look into, the language model's own first."""
    found = [config]
    if not isinstance(config, Mapping):
        try:
            text = config.get_text_config(decoder=True)  # of an encoder-decoder it is a copy with the decoder's values
        except Exception:  # none, or several
            text = None
        if text is not None and text is not config:
            found.append(text)
    for _ in range(2):  # a "thinker" has its language model nested once more
        inner = (_value(found[-1], name) for name in _TEXT_CONFIGS)
        found += [next((value for value in inner if _is_config(value) and value is not found[-1]), None)]
        if found[-1] is None:
            found.pop()
            break
    blocks = (_value(level, name) for level in found for name in _BLOCK_CONFIGS)
    return (*reversed(found), *(block for block in blocks if _is_config(block)))


def _is_config(value: object) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "to_dict")


def _value(config: Any, name: str) -> Any:
    """Return a value; the list of all layers' if they differ; None if there is none."""
    if isinstance(config, Mapping):
        return config.get(name)
    try:
        return getattr(config, name, None)
    except Exception:  # transformers refuses to say one value for layers that differ
        try:
            return [getattr(layer, name, None) for layer in config.per_layer_config]
        except Exception:  # a property that fails on this configuration
            return None


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value // 1 and abs(value) < 2**63 else None


def _size(levels: Iterable[Any], name: str) -> int | None:
    """Return a positive size, the largest if there is one for each layer."""
    for level in levels:
        value = _value(level, name)
        values = value if isinstance(value, list | tuple) else (value,)
        sizes = [size for each in values if (size := _whole_number(each)) is not None and size > 0]
        if sizes:
            return max(sizes)
    return None


def _first_size(levels: Iterable[Any], names: Iterable[str]) -> int | None:
    return next((size for name in names if (size := _size(levels, name)) is not None), None)


def _length(levels: Iterable[Any], names: Iterable[str]) -> int | None:
    values = (_value(level, name) for level in levels for name in names)
    return next((len(value) for value in values if isinstance(value, list | tuple) and value), None)


def _window(levels: tuple[Any, ...]) -> int | None:
    sizes = (_size(levels, name) for name in _WINDOWS)
    window = next((size for size in sizes if size is not None and size < LARGEST_WINDOW), None)
    kinds = {kind for level in levels if isinstance(kind := _value(level, "model_type"), str)}
    rotary = any(_value(level, "position_embedding_type") == "rotary" for level in levels)
    if window is not None and kinds & _POSITIONS_AFTER_PADDING and not rotary:
        padding = next(iter(_token_ids(levels, "pad_token_id")), 1)
        window = max(1, window - padding - 1)
    return window


def _token_ids(levels: Iterable[Any], name: str) -> tuple[int, ...]:
    """Return the token ids of a name in the order that they stand in, each once."""
    for level in levels:
        value = _value(level, name)
        values = value if isinstance(value, list | tuple) else (value,)
        ids = [token for each in values if (token := _whole_number(each)) is not None and token >= 0]
        if ids:
            return tuple(dict.fromkeys(ids))
    return ()
