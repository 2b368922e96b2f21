from pathlib import Path

import pytest

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.checkpoints.pair import Layer
from quail_audit.runs.folder import new_run
from quail_audit.runs.record import record
from quail_train.layers import names_at_risk, select_layers
from tests.support.small_run import REQUEST, events

ROLES = ("self_attn.q_proj", "mlp.down_proj")
LAYERS = tuple(
    Layer(f"model.layers.{block}.{role}", block, role.split(".")[1], (2, 2), 4, False)
    for block in range(12)
    for role in ROLES
)


def chosen(*selectors: str, at_risk: frozenset[str] = frozenset()) -> list[str]:
    return [layer.name for layer in select_layers(LAYERS, selectors, at_risk)]


def test_all() -> None:
    assert chosen("all") == [layer.name for layer in LAYERS]


def test_by_block_and_range() -> None:
    assert chosen("block:1") == [f"model.layers.1.{role}" for role in ROLES], "1 is not 10 or 11"
    assert chosen("block:3-5") == [f"model.layers.{block}.{role}" for block in (3, 4, 5) for role in ROLES]


def test_by_role_and_name() -> None:
    assert len(chosen("role:down_proj")) == 12
    assert chosen("name:*.1?.mlp.*") == ["model.layers.10.mlp.down_proj", "model.layers.11.mlp.down_proj"]


def test_selectors_add_up_in_model_order() -> None:
    assert chosen("block:2", "name:model.layers.0.mlp.down_proj", "block:2") == [
        "model.layers.0.mlp.down_proj",
        *(f"model.layers.2.{role}" for role in ROLES),
    ]


def test_at_risk() -> None:
    assert chosen("at-risk", at_risk=frozenset({LAYERS[3].name})) == [LAYERS[3].name]


@pytest.mark.parametrize("selector", ["block:40", "role:up_proj", "name:lm_head", "at-risk"])
def test_no_layer_matches(selector: str) -> None:
    with pytest.raises(UsageError, match="no layer") as caught:
        chosen(selector)
    assert "blocks 0 to 11, roles q_proj, down_proj" in caught.value.mend


@pytest.mark.parametrize("selector", ["", "block:", "block:a-b", "block:1-", "role:", "layer:3", "All"])
def test_unreadable(selector: str) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        chosen(selector)


def test_at_risk_from_a_run(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", REQUEST) as folder:
        list(record(events(), folder))
    assert names_at_risk(["at-risk"], str(tmp_path / "run"), "nf4") == {"model.layers.0.mlp.down_proj"}
    with pytest.raises(BadInputError, match="no layers under fp4"):
        names_at_risk(["at-risk"], str(tmp_path / "run"), "fp4")
    with pytest.raises(BadInputError, match="no run here"):
        names_at_risk(["at-risk"], str(tmp_path / "nowhere"), "nf4")
