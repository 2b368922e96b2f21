"""Choose the class of transformers that a checkpoint is measured and loaded as.

It is the one that config.json's `architectures` names, so that an encoder-decoder is not taken for its decoder, nor a
vision-language model for its text model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quail_audit.core.untrusted import printable

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # 2.8 s to import


def first_architecture(config: Mapping[str, Any]) -> str:
    """Return the class that a config.json names, or an empty string."""
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json describes a sequence classifier; else it is taken for a language model."""
    return first_architecture(config).endswith("ForSequenceClassification")


def model_class(config: Mapping[str, Any]) -> type[PreTrainedModel] | None:
    """Return the class to load a checkpoint as; None if transformers has none. It may want the text part of the config.

    If transformers lacks the class that is named, or none is named, it is the language model or sequence classifier of
    the model's type. A decoder saved without its head is its language model as well: it has the same layers.
    """
    named, usual = _named_class(config), _usual_class(config)
    return usual if named is None or (usual is not None and _is_headless(named, usual, config)) else named


def class_note(config: Mapping[str, Any]) -> str:
    """Say which class stands in for the one that a config.json names; empty if that one is used."""
    name = first_architecture(config)
    if not name or _named_class(config) is not None or (found := _usual_class(config)) is None:
        return ""
    named = f"config.json names the class {printable(name, limit=80)}, which transformers lacks for a model of its type"
    return f"{named}: read as {found.__name__}"


def why_not_asked(model: PreTrainedModel | None) -> str:
    """Say why a model, which may have no weights, answers no prompts; empty if it does, or if it is not known.

    A sequence classifier is asked otherwise, and is not to be given.
    """
    if model is None:
        return ""
    name = type(model).__name__
    config: Any = model.config
    if config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model, which is not asked"
    untyped: Any = model
    if not untyped.can_generate():
        return f"{name} is no language model that generates text"
    inputs = inspect.signature(type(model).forward).parameters.values()
    needed = [
        each.name
        for each in inputs
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"
    ]
    if model.main_input_name != "input_ids" or [each for each in needed if each != "input_ids"]:
        return f"{name} answers to more than text, so it is not asked"
    return ""


def _named_class(config: Mapping[str, Any]) -> type[PreTrainedModel] | None:
    """Return the class of transformers that `architectures` names, if it is one of this model type."""
    import transformers

    found = getattr(transformers, name, None) if (name := first_architecture(config)).isidentifier() else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    untyped: Any = found
    kind: Any = untyped.config_class
    return found if kind is not None and kind.model_type == config.get("model_type") else None


def _is_headless(named: type[PreTrainedModel], usual: type[PreTrainedModel], config: Mapping[str, Any]) -> bool:
    """Tell whether a class is the decoder alone of a language model's class: LlamaModel of LlamaForCausalLM."""
    untyped: Any = named
    is_encoder_decoder = config.get("is_encoder_decoder", getattr(untyped.config_class, "is_encoder_decoder", False))
    family = re.sub(r"(ForCausalLM|LMHeadModel)$", "", usual.__name__)
    return not is_encoder_decoder and named.__name__ in (f"{family}Model", f"{family}TextModel")


def _usual_class(config: Mapping[str, Any]) -> type[PreTrainedModel] | None:
    """Return the language model or sequence classifier that transformers' auto classes have for this model type."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    auto: Any = AutoModelForSequenceClassification if is_classifier(config) else AutoModelForCausalLM
    kind = CONFIG_MAPPING[model_type]
    if kind not in auto._model_mapping:
        return None
    found: Any = auto._model_mapping[kind]
    first: type[PreTrainedModel] = found[0] if isinstance(found, (list, tuple)) else found
    return first
