"""The real libraries on a CPU, each in an environment of its own: make test-backends.

What they wrote, read by Quail, is what their own modules compute with; and an audit at them goes from end to end.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from quail_audit.core.errors import QuailError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.schemes.backends.messages import Job, LayerStarted
from quail_audit.engine.schemes.backends.process import Scratch, run
from quail_audit.engine.schemes.calibrated import AWQ, CalibratedScheme, scheme_of
from quail_audit.schema.events.audit import LayerMeasured, LayerQuantized, WeightsMeasured
from quail_audit.schema.events.common import RunFinished
from quail_audit.schema.requests import AuditRequest
from tests.support.places import ROOT

pytestmark = [pytest.mark.backend, pytest.mark.timeout(600)]

HAS_GPTQMODEL = importlib.util.find_spec("gptqmodel") is not None
HAS_AUTO_GPTQ = importlib.util.find_spec("auto_gptq") is not None
BACKEND = "quail_audit.engine.schemes.backends.gptqmodel" if HAS_GPTQMODEL else "tests.support.auto_gptq_on_cpu"
ROLES = 7  # rounded matrices in a block of Llama
NAMES = ["gptq-int4-g128", "gptq-int3-g32", "gptq-int8-g64-desc_act", *([AWQ] if HAS_GPTQMODEL else [])]


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (HAS_GPTQMODEL or HAS_AUTO_GPTQ):
        pytest.skip("neither GPTQModel nor auto-gptq is installed")
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    monkeypatch.setattr(CalibratedScheme, "backend", lambda *_: BACKEND)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original, and unlearned: the same with an update of a thousandth on every weight; and retain.txt."""
    from transformers import LlamaForCausalLM

    from tests.support.tiny_language_models import POSTS, llama_config, make_tokenizer

    root = tmp_path_factory.mktemp("pair")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(len(tokenizer), hidden_size=128, intermediate_size=256))
    for name in ("original", "unlearned"):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
    (root / "retain.txt").write_text(" ".join(POSTS) * 4)
    return root


def job(name: str, model: Path, folder: Path) -> Job:
    scheme = scheme_of(name)
    assert scheme is not None
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(2, 390, (8, 64), generator=generator).tolist()
    return Job(
        backend=BACKEND, model=str(model), folder=str(folder), rows=rows, method=scheme.method, bits=scheme.bits,
        group_size=scheme.group_size, desc_act=scheme.desc_act, dtype="float32", device="cpu", seed=0,
    )  # fmt: skip


def by_the_library(folder: Path) -> dict[str, torch.Tensor]:
    """Module -> [outputs, inputs], as the library's own modules have it once they have loaded what it wrote."""
    if not HAS_GPTQMODEL:
        from auto_gptq import AutoGPTQForCausalLM

        loaded = AutoGPTQForCausalLM.from_quantized(
            str(folder), device="cpu", model_basename="model", torch_dtype=torch.float32
        )
        modules = {n: m for n, m in loaded.model.named_modules() if hasattr(m, "qweight")}
        return {n: (m(torch.eye(m.infeatures)) - m.bias).T for n, m in modules.items()}

    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND as KERNELS
    from gptqmodel import GPTQModel

    awq = open_checkpoint(str(folder)).scheme.startswith("awq")
    kernel = KERNELS.TORCH_AWQ if awq else KERNELS.TORCH
    loaded = GPTQModel.load(str(folder), backend=kernel, device="cpu", dtype=torch.bfloat16 if awq else torch.float16)

    def dequantized(module: Any) -> torch.Tensor:
        if not awq:
            return module.dequantize_weight().T
        like = torch.zeros(1, dtype=torch.bfloat16)
        return module._dequantize_weight_for_inference(like, dtype=torch.bfloat16).T

    return {n: dequantized(m) for n, m in loaded.model.named_modules() if hasattr(m, "qweight")}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_backend_wrote_reads_as_its_own_modules_have_it(pair: Path, name: str) -> None:
    with Scratch() as scratch:
        folder = scratch.folder / "made"
        said = list(run(job(name, pair / "original", folder), scratch, "here"))
        made = open_checkpoint(str(folder))
        expected = by_the_library(folder)
        names = {message.name for message in said if isinstance(message, LayerStarted)}
        assert names == set(expected) == {parameter.removesuffix(".weight") for parameter in made.packed}
        assert len(expected) == 2 * ROLES
        for module, values in expected.items():
            rounded = made.packed[f"{module}.weight"].unpack()
            assert torch.equal(rounded.values.to(values.dtype), values), module
            scheme = scheme_of(name)
            assert scheme is not None
            assert int(rounded.codes.max()) < scheme.levels
            full = open_checkpoint(str(pair / "original")).read(f"{module}.weight")
            if scheme.method == "gptq":  # AWQ rounds scaled weights
                assert rounded.widths is not None
                assert (rounded.values.float() - full).norm() < rounded.widths.norm()  # moved by less than a bucket


def test_what_is_no_number_is_an_error_that_names_a_layer(pair: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(pair / "original", tmp_path / "spoilt")
    tensors = load_file(tmp_path / "spoilt" / "model.safetensors")
    tensors["model.layers.0.post_attention_layernorm.weight"][3] = torch.nan
    save_file(tensors, tmp_path / "spoilt" / "model.safetensors", metadata={"format": "pt"})
    with Scratch() as scratch, pytest.raises(QuailError, match=r"model\.layers\.0\.mlp"):
        list(run(job("gptq-int4-g32", tmp_path / "spoilt", scratch.folder / "made"), scratch, "here"))


@pytest.mark.parametrize("name", ["gptq-int4-g64", *([AWQ] if HAS_GPTQMODEL else [])])
def test_an_audit_goes_from_end_to_end(pair: Path, name: str) -> None:
    """The update is large enough against 4-bit buckets to be carried; AWQ's is, once its scales are taken out again."""
    request = AuditRequest(
        original=str(pair / "original"),
        unlearned=str(pair / "unlearned"),
        schemes=(name,),
        calibration=str(pair / "retain.txt"),
        device="cpu",
    )
    events = list(audit(request, "run"))
    quantized = [event for event in events if isinstance(event, LayerQuantized)]
    assert [event.index for event in quantized] == [*range(1, 2 * ROLES + 1)] * 2
    layers = [event.layer for event in events if isinstance(event, LayerMeasured)]
    assert len(layers) == 2 * ROLES
    for layer in layers:
        assert layer.survival == pytest.approx(1, abs=0.35), layer
        assert layer.state == "carried"
    (summary,) = (event.summary for event in events if isinstance(event, WeightsMeasured))
    assert summary.survival == pytest.approx(1, abs=0.1)
    assert isinstance(events[-1], RunFinished)
