from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # seconds to import


@pytest.fixture(scope="session")
def erased_run(
    tmp_path_factory: pytest.TempPathFactory,
    world: Path,
    llama: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
) -> Path:
    """The folder of an audit that found a tiny pair's forgetting erased at nf4. Tests don't write to it."""
    from erased_pair import build_demo

    from quail_audit.audit import audit
    from quail_audit.events import AuditRequest
    from quail_audit.runs import new_run, record

    demo = tmp_path_factory.mktemp("erased")
    build_demo(world, llama, tokenizer, demo)
    request = AuditRequest(
        original=str(demo / "original"), unlearned=str(demo / "unlearned"), data=str(demo / "data"), device="cpu"
    )
    with new_run(demo / "run", request) as folder:
        for _ in record(audit(request, "an-audit"), folder):
            pass
    return folder
