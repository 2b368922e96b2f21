"""Names of calibrated schemes, and which library is used for them."""

import importlib.util
from collections.abc import Callable

import pytest

from quail_audit.core.errors import EnvironmentProblemError, UsageError
from quail_audit.engine.schemes import calibrated, registry


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def only(*names: str) -> None:
        monkeypatch.setattr(calibrated, "find_spec", lambda name: name in names or None)

    return only


def test_names_say_everything() -> None:
    scheme = calibrated.scheme_of("gptq-int3-g64-desc_act")
    assert scheme is not None
    assert (scheme.method, scheme.bits, scheme.group_size, scheme.desc_act) == ("gptq", 3, 64, True)
    assert scheme.levels == 8
    assert scheme.bits_per_weight == pytest.approx(3 + 16 / 64 + 3 / 64)


@pytest.mark.parametrize(
    "name", ["gptq", "gptq-int5-g128", "gptq-int4", "gptq-int4-g16", "awq-int4-g64", "gptq-int4-g128-"]
)
def test_other_names_are_none(name: str) -> None:
    assert calibrated.scheme_of(name) is None
    with pytest.raises(UsageError, match=r"gptq-int\{2,3,4,8\}"):
        registry.any_scheme_named(name)


def test_every_shown_scheme_is_found_by_its_name() -> None:
    for scheme in calibrated.schemes():
        assert calibrated.scheme_of(scheme.name) == scheme


def test_a_missing_library_names_the_extra(installed: Callable[..., None]) -> None:
    installed()
    with pytest.raises(EnvironmentProblemError, match="gptq-int4-g128") as caught:
        registry.any_scheme_named("gptq-int4-g128")
    assert caught.value.mend == "pip install 'quail-audit[gptq]'"
    assert caught.value.exit_code == 4
    assert "gptq-int4-g128" not in registry.expand_names(["all"])


def test_gptqmodel_is_preferred(installed: Callable[..., None]) -> None:
    installed("gptqmodel", "auto_gptq")
    assert calibrated.schemes()[0].backend("cpu").endswith(".gptqmodel")
    assert "awq-int4-g128" in registry.expand_names(["all"])


def test_auto_gptq_does_gptq_on_cuda_only(installed: Callable[..., None]) -> None:
    installed("auto_gptq")
    scheme = registry.any_scheme_named("gptq-int4-g128")
    assert isinstance(scheme, calibrated.CalibratedScheme)
    assert scheme.backend("cuda:0").endswith(".auto_gptq")
    with pytest.raises(EnvironmentProblemError, match="CUDA only"):
        scheme.backend("cpu")
    with pytest.raises(EnvironmentProblemError, match="awq"):
        registry.any_scheme_named(calibrated.AWQ)


def test_training_through_them_is_refused() -> None:
    with pytest.raises(UsageError, match="only an audit"):
        registry.scheme_named("gptq-int4-g128")


def test_the_backends_are_modules() -> None:
    for name in ("gptqmodel", "auto_gptq"):
        assert importlib.util.find_spec(f"quail_audit.engine.schemes.backends.{name}") is not None
