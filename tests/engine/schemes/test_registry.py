import io
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest
from rich.console import Console

from quail_audit.cli.doctor import show_schemes
from quail_audit.core import plug_ins
from quail_audit.core.errors import EnvironmentProblemError, UsageError
from quail_audit.engine.schemes import registry
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.engine.schemes.registry import expand_names, known_schemes


class Lacking(FourBit):
    """A scheme whose library is not here."""

    def __init__(self) -> None:
        super().__init__("fp4", double_quantization=False)
        self.name = "lacking"

    def install_command(self) -> str:
        return "pip install its-library"


class Plugged(FourBit):
    """A scheme of another package."""

    def __init__(self) -> None:
        super().__init__("nf4", double_quantization=False)
        self.name = "mine"


def broken() -> Scheme:
    raise ImportError("its library is missing")


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        EntryPoint("mine", f"{__name__}:Plugged", "quail.schemes"),
        EntryPoint("broken", f"{__name__}:broken", "quail.schemes"),
        EntryPoint("odd", "builtins:dict", "quail.schemes"),
    ]
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: points)
    registry.known_schemes.cache_clear()
    yield
    registry.known_schemes.cache_clear()


def test_schemes_are_found_by_name() -> None:
    names = [scheme.name for scheme in registry.known_schemes()]
    assert names[:5] == ["nf4", "fp4", "nf4-dq", "fp4-dq", "int8"]
    assert {"rtn-int4-g128", "gguf-q4_0", "mxfp4", "nvfp4"} < set(names)
    assert len(set(names)) == len(names)
    assert registry.scheme_named("fp4").name == "fp4"


def test_an_unknown_scheme_is_wrong_usage_with_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        registry.scheme_named("nf-4")
    assert caught.value.exit_code == 2
    assert "Did you mean nf4?" in caught.value.mend
    assert "fp4-dq" in caught.value.mend


def test_a_scheme_that_lacks_something_is_listed_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "known_schemes", lambda: (Plugged(), Lacking()))
    monkeypatch.setattr("quail_audit.engine.schemes.calibrated.find_spec", lambda _: None)
    assert expand_names(["all"]) == ("mine",)
    monkeypatch.setattr("quail_audit.engine.schemes.calibrated.find_spec", lambda name: name == "auto_gptq" or None)
    assert {"mine", "gptq-int4-g128"} < set(expand_names(["all"]))
    assert "awq-int4-g128" not in expand_names(["all"])  # which auto-gptq does not make
    with pytest.raises(EnvironmentProblemError) as caught:
        registry.scheme_named("lacking")
    assert (caught.value.exit_code, caught.value.mend) == (4, "pip install its-library")
    out = io.StringIO()
    show_schemes(Console(file=out, width=200))
    assert "lacking" in out.getvalue()
    assert out.getvalue().count("not on this machine yet: pip install its-library") == 1
    assert out.getvalue().count("not on this machine yet: pip install 'quail-audit[gptq]'") == 1  # for awq-int4-g128


@pytest.mark.usefixtures("plugged_in")
def test_plug_ins_join_and_broken_ones_are_skipped_loudly() -> None:
    with pytest.warns(UserWarning, match="was skipped") as warned:
        names = [scheme.name for scheme in registry.known_schemes()]
    assert names[-1] == "mine"
    assert {str(warning.message).split()[3] for warning in warned} == {"broken", "odd"}


def test_all_stands_for_every_scheme_and_no_scheme_is_taken_twice() -> None:
    every = tuple(scheme.name for scheme in known_schemes())
    assert expand_names(["all"]) == every
    assert expand_names(["fp4", "nf4", "fp4"]) == ("fp4", "nf4")
    assert expand_names(["fp4", "all"]) == ("fp4", *(name for name in every if name != "fp4"))
    assert expand_names(["wrong"]) == ("wrong",)  # which is refused, with its reason, when it is looked up
