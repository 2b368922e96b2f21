"""Every test of the app has a folder of its own to work in, and settings of its own; some share a pair to audit."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app writes runs below the working folder and settings into the configuration folder."""
    monkeypatch.setenv("QUAIL_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="session")
def demo(
    world: Path,
    llama: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """See build_demo."""
    from tests.support.erased_pair import build_demo

    folder = tmp_path_factory.mktemp("demo")
    build_demo(world, llama, tokenizer, folder)
    return folder
