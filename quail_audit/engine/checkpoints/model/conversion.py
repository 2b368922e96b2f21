"""Make a parameter of stored tensors that transformers splits or fuses on loading, or one expert's part of it.

Since version 5 transformers fuses the experts of a layer into one tensor. Its own operations run here, on no more than
the tensors that a part is made of, so that memory stays bounded by one matrix and what it is stored in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from quail_audit.engine.checkpoints.model.transformers_rules import is_version_5

if TYPE_CHECKING:
    import torch  # 1.6 s to import
    from transformers import PreTrainedModel

_STACKING = ({"MergeModulelist"}, {"MergeModulelist", "Concatenate"})  # operations that only put tensors together


@dataclass(frozen=True, eq=False)
class Conversion:
    """How a parameter is made of stored tensors.

    Attributes:
        parameter: the parameter's name.
        shape: its shape in the model.
        first: the parameter that transformers names the conversion by.
        sources: pattern -> the stored tensors that match it, in transformers' order.
    """

    parameter: str
    shape: tuple[int, ...]
    first: str
    sources: Mapping[str, tuple[str, ...]]
    converter: Any = field(repr=False)
    config: Any = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors that it is made of."""
        return tuple(name for names in self.sources.values() for name in names)

    def single_source(self, index: int, part: int, parts: int) -> str | None:
        """Return the tensor that holds one expert's part of so many and nothing else, if it is stored like that."""
        operations = {type(operation).__name__ for operation in self.converter.operations}
        patterns = [pattern for pattern in self.converter.source_patterns if pattern in self.sources]
        if (
            operations not in _STACKING
            or len(patterns) != parts
            or any(len(self.sources[pattern]) != self.shape[0] for pattern in patterns)
        ):
            return None
        return self.sources[patterns[part]][index]

    def make(self, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """Return the whole parameter, made of tensors that `read` returns by name."""
        inputs = {pattern: [read(name) for name in names] for pattern, names in self.sources.items()}
        return _convert(self, inputs, self.shapes)[self.parameter]

    def make_expert(self, read: Callable[[str], torch.Tensor], index: int) -> torch.Tensor:
        """Return one slice along the first side, made of that expert's tensors alone if that is possible."""
        experts = self.shape[0]
        inputs: dict[str, list[torch.Tensor]] = {}
        for pattern, names in self.sources.items():
            if len(names) == experts and experts > 1:
                inputs[pattern] = [read(names[index])]
            elif len(names) == 1 and (whole := read(names[0])).shape[:1] == (experts,):
                inputs[pattern] = [whole[index : index + 1]]
            else:
                return self.make(read)[index]
        thin = {name: (1, *shape[1:]) for name, shape in self.shapes.items()}
        made = _convert(self, inputs, thin)[self.parameter]
        return made[0] if made.shape == (1, *self.shape[1:]) else self.make(read)[index]


def conversions_of(
    model: PreTrainedModel,
    names: Iterable[tuple[str, str, str]],
    shape_of: Callable[[str], tuple[int, ...]],
) -> dict[str, Conversion]:
    """Return parameter -> how it is made of stored tensors; without those that transformers could not make.

    Args:
        model: the model without weights.
        names: stored tensors that are converted: (name, the parameter it goes into first, the pattern that it matches).
        shape_of: stored tensor -> its shape.
    """
    import torch

    if not is_version_5():
        return {}
    from transformers.core_model_loading import dot_natural_key

    converter_of = {pattern: each for each in _converters(model) for pattern in each.source_patterns}
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, first, pattern in sorted(names, key=lambda each: dot_natural_key(each[0])):
        groups[first][pattern].append(name)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    found: dict[str, Conversion] = {}
    for first, sources in groups.items():
        kept = {pattern: tuple(each) for pattern, each in sources.items()}
        converter = converter_of[next(iter(kept))]
        trial = Conversion(first, (), first, kept, converter, model.config, shapes)
        inputs = {
            pattern: [torch.empty(shape_of(name), device="meta") for name in each] for pattern, each in kept.items()
        }
        try:
            made = _convert(trial, inputs, shapes)
        except Exception:  # noqa: S112 - the operations may raise anything; what cannot be made is counted as unread
            continue
        for parameter, tensor in made.items():
            if shapes.get(parameter) == tuple(tensor.shape):
                found[parameter] = Conversion(
                    parameter, shapes[parameter], first, kept, converter, model.config, shapes
                )
    return found


def source_words(model: PreTrainedModel, parameter: str) -> tuple[str, ...]:
    """Return what the files call the parts that transformers concatenates to a parameter: ("w1", "w3"); () if none."""
    import re

    if not is_version_5():
        return ()
    for converter in _converters(model):
        kinds = [type(operation).__name__ for operation in converter.operations]
        if kinds == ["MergeModulelist", "Concatenate"] and re.search(f"{converter.target_patterns[0]}$", parameter):
            return tuple(_last_word(pattern) for pattern in converter.source_patterns)
        if kinds == ["MergeModulelist"] and re.search(f"{converter.target_patterns[0]}$", parameter):
            return (_last_word(converter.source_patterns[0]),)
    return ()


def _last_word(pattern: str) -> str:
    return pattern.rstrip("$").removesuffix("weight").rstrip(".\\").rpartition(".")[2]


def _converters(model: PreTrainedModel) -> list[Any]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    return [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightConverter)]


def _convert(
    conversion: Conversion, inputs: Mapping[str, Sequence[torch.Tensor]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """Run the operations as WeightConverter.convert does it; return parameter -> tensor.

    `shapes` are those that an operation sees of the model's parameters.
    """
    import torch

    def parameter(name: str) -> torch.Tensor:
        return torch.empty(shapes[name], device="meta")

    collected: dict[str, Any] = {pattern: list(tensors) for pattern, tensors in inputs.items()}
    for operation in conversion.converter.operations:
        collected = operation.convert(
            collected,
            source_patterns=conversion.converter.source_patterns,
            target_patterns=conversion.converter.target_patterns,
            full_layer_name=conversion.first,
            model=SimpleNamespace(get_parameter=parameter, config=conversion.config),
            config=conversion.config,
            missing_keys=set(),
        )
    target = next((key for key in collected if key in conversion.first), None)
    before, _, after = conversion.first.partition(target) if target else ("", "", "")
    return {f"{before}{key}{after}": value[0] if isinstance(value, list) else value for key, value in collected.items()}
