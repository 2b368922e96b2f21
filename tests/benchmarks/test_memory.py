"""How much memory measuring a pair takes, over an idle import of the same modules. Prints figures. Run: make bench."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

SHAPE = (4096, 11008)  # the largest matrix of a Llama of 7 B; 86 MiB in bf16
SHARDS = 4
LAYERS = (12, 24)  # 1 GiB and 2 GiB a checkpoint

MEASURE = """
import json, sys
import bitsandbytes, torch
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.engine.weights.statistics import layer_statistics, summarize
from quail_audit.engine.weights.sums import PairSums

def peak_mib():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024

idle = peak_mib()
scheme, pair = scheme_named(sys.argv[3]), open_pair(sys.argv[1], sys.argv[2])
total, layers = PairSums(), []
for layer in pair.layers:
    sums = pair_sums(*pair.read(layer), scheme, threads=2)
    layers.append(layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role))
    total += sums
summary = summarize(total, layers)
print(json.dumps({"idle": idle, "peak": peak_mib(), "layers": len(layers), "overlap": summary.overlap}))
"""


def make_pair(folder: Path, layers: int, dtype: torch.dtype) -> int:
    """A sharded pair without a config: two folders of one matrix a layer. Returns the bytes of one side."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SHAPE, generator=generator) * 0.02
    sides = {"original": weight, "unlearned": weight + torch.randn(SHAPE, generator=generator) * 1e-4}
    for side, matrix in sides.items():
        (folder / side).mkdir(parents=True)
        shard_of: dict[str, str] = {}
        stored = matrix.to(dtype)
        for shard in range(SHARDS):
            name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
            names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(shard, layers, SHARDS)]
            save_file({tensor: stored.clone() for tensor in names}, folder / side / name)
            shard_of |= dict.fromkeys(names, name)
        (folder / side / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    return layers * weight.numel() * dtype.itemsize


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [("nf4", torch.bfloat16), ("nf4", torch.float16), ("nf4-dq", torch.bfloat16)],
    ids=["nf4, bf16", "nf4, fp16", "nf4-dq, bf16"],
)
def test_peak_memory(scheme: str, dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for layers in LAYERS:
        folder = tmp_path / str(layers)
        size = make_pair(folder, layers, dtype)
        found = json.loads(
            subprocess.run(
                [sys.executable, "-c", MEASURE, str(folder / "original"), str(folder / "unlearned"), scheme],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for weights in folder.rglob("*.safetensors"):
            weights.unlink()  # 4 GiB: not to be kept as pytest keeps folders
        assert found["layers"] == layers
        with capsys.disabled():
            print(
                f"\n{scheme}, {dtype}: 2 x {size / 2**30:.2f} GiB in {layers} layers of "
                f"{size / layers / 2**20:.0f} MiB: "
                f"peak {found['peak'] - found['idle']:.0f} MiB over the {found['idle']:.0f} MiB of an idle import"
            )
