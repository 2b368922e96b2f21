"""Define what `quail inspect` found in a checkpoint: its JSON, whose fields are only ever added to."""

from __future__ import annotations

from quail_audit.core.values import Value
from quail_audit.schema.figures import CheckpointFacts


class TensorsOfKind(Value):
    """The tensors of a checkpoint that have one part in its model.

    Attributes:
        kind: that part, in words: "layers that schemes round".
        tensors: how many.
        weights: their values.
        dtypes: as they are stored, or the scheme that they are quantized in, the most values first.
        examples: the first names, as they are stored.
        loaded: the types that they are loaded in, the most values first.
    """

    kind: str
    tensors: int
    weights: int
    dtypes: tuple[str, ...]
    examples: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()


class ModulesLeft(Value):
    """Modules that a scheme leaves in full precision.

    Attributes:
        modules: their names, the numbers of blocks as N.
        count: how many.
        weights: their values.
        why: why.
    """

    modules: str
    count: int
    weights: int
    why: str


class RoundedBy(Value):
    """The part of the model that a scheme rounds.

    Attributes:
        scheme: as --scheme names it.
        layers: matrices that it rounds.
        weights: their values.
        share: of all the model's values, 0 to 1.
        left: the modules with a matrix that it leaves.
    """

    scheme: str
    layers: int
    weights: int
    share: float
    left: tuple[ModulesLeft, ...] = ()


class SpecialToken(Value):
    """A special token.

    Attributes:
        role: "begin", "end" or "padding".
        id: its number.
        text: as the tokenizer writes it; empty if it has none of this number.
    """

    role: str
    id: int
    text: str


class PromptSeen(Value):
    """A text exactly as the model sees it.

    Attributes:
        name: what it is: "knowmem_forget".
        text: the text before it is encoded.
        tokens: as the tokenizer writes them, special ones included.
        ids: their numbers.
        cut: tokens that the window had no room for.
    """

    name: str
    text: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    cut: int = 0


class Inspection(Value):
    """A checkpoint as an audit would see it, without a weight read.

    Attributes:
        facts: source, class, format, parameters, size.
        task: "language modelling" or "classification".
        base: what an adapter is applied to.
        adapter: an adapter's factors and other tensors.
        tensors: the model's tensors, by their part in it; an adapter's are those of its base.
        dtype_named: the type that config.json names.
        dtype_loaded: the type that the model is loaded in, and its layers are compared in.
        tied: parameters that are another one, as "lm_head.weight is model.embed_tokens.weight".
        renamed: tensors whose stored name is not the model's, as "transformer.wte.weight is wte.weight".
        renamed_count: how many those are.
        schemes: what each scheme rounds.
        window: tokens that the model has positions for, or was made for.
        special: its special tokens.
        chat_template: the first line of its chat template, if it has one. An audit asks questions through it too.
        prompts: texts as the model sees them, from the data if that was given.
        samples: samples of each metric that the data allows.
        notes: what the report of an audit would say of it.
        not_measured: what an audit could not measure, and why.
    """

    facts: CheckpointFacts
    task: str
    base: str | None = None
    adapter: TensorsOfKind | None = None
    tensors: tuple[TensorsOfKind, ...]
    dtype_named: str | None = None
    dtype_loaded: str | None = None
    tied: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    renamed_count: int = 0
    schemes: tuple[RoundedBy, ...]
    window: int | None = None
    special: tuple[SpecialToken, ...] = ()
    chat_template: str | None = None
    prompts: tuple[PromptSeen, ...] = ()
    samples: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()
