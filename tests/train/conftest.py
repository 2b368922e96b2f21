from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # seconds to import: only where tests need them


@pytest.fixture(scope="session")
def training_world(
    tmp_path_factory: pytest.TempPathFactory, llama: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast"
) -> Path:
    """See training.make_world. Tests don't write to it."""
    from tests.support.tiny_training import make_world

    return make_world(tmp_path_factory.mktemp("training_world"), llama, tokenizer)
