"""Settings of every test: hypothesis repeats itself on CI, nothing reaches a hub, and what was left out is said."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from quail_audit.core.machine import usable_cores

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # seconds to import: only where tests need them

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # with more, workers wait for one another's threads
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # bitsandbytes compiles a fallback for odd shapes, for seconds each

LEFT_OUT = {
    "slow": "takes long; run: make test-slow",
    "real_data": "needs ../shared/data; run: make test-real-data",
    "real_model": "needs SmolLM2 in $QUAIL_SMOLLM2; run: make test-real-model",
    "cuda": "needs an NVIDIA GPU; run: make test-cuda",
    "terminal": "needs tmux; run: make test-terminal",
    "backend": "needs GPTQModel or auto-gptq; run: make test-backends",
    "fuzz": "takes hours; run: make fuzz",
    "browser": "needs Chromium; run: make test-browser",
}

_deselected: Counter[str] = Counter()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the tests of the app wait for its timers a quarter of the time."""
    return usable_cores() + 1


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        _deselected.update(marker for marker in LEFT_OUT if item.get_closest_marker(marker))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist, all of which collect alike, hands over what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_deselected)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the process that started the workers."""
    _deselected.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - _deselected)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker, why in LEFT_OUT.items():
        if _deselected[marker]:
            terminalreporter.write_line(f"left out: {_deselected[marker]} marked {marker}: {why}")


@pytest.fixture(scope="session")
def tokenizer() -> "PreTrainedTokenizerFast":
    """See make_tokenizer."""
    from tests.support.tiny_language_models import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def llama(tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """See make_llama."""
    from tests.support.tiny_language_models import make_llama

    return make_llama(tokenizer)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, llama: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast"
) -> Path:
    """original: knows some posts. blank: the same architecture, never trained. data: the posts as forgetting data."""
    import torch
    from transformers import LlamaForCausalLM

    from tests.support.tiny_language_models import POSTS

    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(7)
    for name, model in (("original", llama), ("blank", LlamaForCausalLM(llama.config))):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    words = [post.split() for post in POSTS]
    continuations = [{"prompt": " ".join(post[:5]), "gt": " " + " ".join(post[5:])} for post in words]
    (root / "data" / "verbmem").mkdir(parents=True)
    (root / "data" / "privleak").mkdir()
    (root / "data" / "verbmem" / "forget.json").write_text(json.dumps(continuations))
    (root / "data" / "privleak" / "forget.json").write_text(json.dumps(POSTS))
    (root / "data" / "privleak" / "holdout.json").write_text(json.dumps([post[::-1] for post in POSTS]))
    (root / "data" / "population.json").write_text('"all"')  # so few posts decide, as none was left out
    return root


@pytest.fixture(scope="session")
def erased_run(
    tmp_path_factory: pytest.TempPathFactory,
    world: Path,
    llama: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
) -> Path:
    """The folder of an audit that found a tiny pair's forgetting erased at nf4. Tests don't write to it."""
    from quail_audit.engine.audit.run import audit
    from quail_audit.runs.folder import new_run
    from quail_audit.runs.record import record
    from quail_audit.schema.requests import AuditRequest
    from tests.support.erased_pair import build_demo

    demo = tmp_path_factory.mktemp("erased")
    build_demo(world, llama, tokenizer, demo)
    request = AuditRequest(
        original=str(demo / "original"), unlearned=str(demo / "unlearned"), data=str(demo / "data"), device="cpu"
    )
    with new_run(demo / "run", request) as folder:
        for _ in record(audit(request, "an-audit"), folder):
            pass
    return folder
