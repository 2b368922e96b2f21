"""A choice of layers as --layers: what comes out means exactly what was chosen, and is short."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quail_audit.schema.figures import LayerStatistics
from quail_audit.tui.form.layer_specs import layer_specs
from tests.support.made_runs import layers as made_layers

LLAMA = list(made_layers(32, "nf4"))
NAMES = [layer.name for layer in LLAMA]


def named(*names: str, block: int | None = None) -> list[LayerStatistics]:
    plain = LLAMA[0].model_dump()
    return [
        LayerStatistics.model_validate(plain | {"name": name, "block": block, "role": name.rpartition(".")[2]})
        for name in names
    ]


def expanded(specs: Sequence[str], layers: Sequence[LayerStatistics], at_risk: Collection[str] = ()) -> set[str]:
    """What `quail train` makes of --layers, written down a second time."""
    found = set()
    for layer in layers:
        for spec in specs:
            kind, _, value = spec.partition(":")
            if kind == "block" and layer.block is not None:
                first, _, last = value.partition("-")
                matches = int(first) <= layer.block <= int(last or first)
            else:
                matches = (
                    spec == "all"
                    or (spec == "at-risk" and layer.name in at_risk)
                    or (kind == "role" and layer.role == value)
                    or (kind == "name" and fnmatchcase(layer.name, value))
                )
            if matches:
                found.add(layer.name)
    return found


def of_block(*blocks: int) -> set[str]:
    return {layer.name for layer in LLAMA if layer.block in blocks}


def of_role(*roles: str) -> set[str]:
    return {layer.name for layer in LLAMA if layer.role in roles}


AT_RISK = {layer.name for layer in LLAMA if layer.at_risk}


@pytest.mark.parametrize(
    ("chosen", "specs"),
    [
        (set(), ()),
        (AT_RISK, ("at-risk",)),
        (set(NAMES), ("all",)),
        (of_block(3), ("block:3",)),
        (of_block(3, 4, 5, 6, 7), ("block:3-7",)),
        (of_block(0, 1, 9), ("block:0-1", "block:9")),
        (of_role("down_proj"), ("role:down_proj",)),
        (of_role("down_proj", "up_proj"), ("role:down_proj", "role:up_proj")),
        (of_block(2) | of_role("q_proj"), ("block:2", "role:q_proj")),
        ({NAMES[0]}, (f"name:{NAMES[0]}",)),
        (AT_RISK | of_block(1), ("at-risk", "block:1")),
        ({n for n in of_block(5) if ".mlp." in n}, ("name:model.layers.5.mlp.*",)),
        ({f"model.layers.{n}.mlp.up_proj" for n in range(13, 17)}, ("name:model.layers.1[3-6].mlp.up_proj",)),
    ],
)
def test_ordinary_choices_are_written_as_a_person_would(chosen: set[str], specs: tuple[str, ...]) -> None:
    assert layer_specs(LLAMA, chosen, AT_RISK) == specs


def test_without_a_report_the_layers_at_risk_are_spelled_out() -> None:
    specs = layer_specs(LLAMA, AT_RISK)
    assert "at-risk" not in specs
    assert expanded(specs, LLAMA) == AT_RISK
    assert len(specs) == 5  # blocks 8 to 30, the mlp of block 31, and k, v and o there


def test_where_every_layer_is_at_risk_at_risk_is_written() -> None:
    assert layer_specs(LLAMA, NAMES, NAMES) == ("at-risk",)


@pytest.mark.parametrize("name", ["odd.[0-9].w", "a*b.c", "what?.w", "[!x].w", "]x[.w", "single", "", "a\nb.c"])
def test_names_with_signs_of_patterns_stand_for_themselves(name: str) -> None:
    layers = named(name, "odd.7.w", "aXb.c", "whatX.w", "y.w", "other.w")
    specs = layer_specs(layers, {name})
    assert expanded(specs, layers) == {name}


def test_layers_outside_blocks_and_with_a_block_of_more_digits_are_told_apart() -> None:
    layers = [*named("model.layers.1.up", block=1), *named("model.layers.11.up", block=11), *named("lm_head")]
    for layer in layers:
        assert expanded(layer_specs(layers, {layer.name}), layers) == {layer.name}


@given(st.sets(st.sampled_from(NAMES)), st.booleans())
def test_any_choice_expands_to_itself(chosen: set[str], with_report: bool) -> None:
    at_risk = AT_RISK if with_report else set()
    specs = layer_specs(LLAMA, chosen, at_risk)
    assert expanded(specs, LLAMA, at_risk) == chosen
    assert len(specs) <= len(chosen)


@given(st.sets(st.integers(0, 31)), st.sets(st.sampled_from(sorted({layer.role for layer in LLAMA}))))
def test_whole_blocks_and_roles_never_need_names(blocks: set[int], roles: set[str]) -> None:
    chosen = of_block(*blocks) | of_role(*roles)
    specs = layer_specs(LLAMA, chosen)
    assert expanded(specs, LLAMA) == chosen
    assert all(spec == "all" or spec.startswith(("block:", "role:")) for spec in specs)


@given(
    st.lists(st.text("ab.*?[]!-01", max_size=6), unique=True, min_size=1, max_size=8).flatmap(
        lambda names: st.tuples(st.just(names), st.sets(st.sampled_from(names)))
    )
)
def test_hostile_names_expand_to_themselves(choice: tuple[list[str], set[str]]) -> None:
    names, chosen = choice
    layers = [layer for number, name in enumerate(names) for layer in named(name, block=number % 3 or None)]
    assert expanded(layer_specs(layers, chosen), layers) == chosen
