"""How fast a pair of weight matrices is measured, against other ways to do it, and against only reading it.

Prints figures and asserts none: only that every way finds the same overlap. Run: make bench.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from quail_audit.engine.schemes.bitsandbytes import bitsandbytes
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums

pytestmark = pytest.mark.slow

NF4 = scheme_named("nf4")
SHAPE = (4096, 2048)  # larger than the processor's caches, as a layer is
ROUNDS = 7
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Pair = tuple[torch.Tensor, torch.Tensor]


def all_changed() -> Pair:
    """(a) fp32, every weight changed."""
    torch.manual_seed(0)
    original = torch.randn(SHAPE) * 0.02
    return original, original + torch.randn(SHAPE) * 1e-4


def nearly_all_identical() -> Pair:
    """(b) bf16, 98 % of the weights bit-identical, the others scattered."""
    torch.manual_seed(0)
    original = (torch.randn(SHAPE) * 0.02).bfloat16()
    moved = (original.float() * 1.02 + 1e-4).bfloat16()
    return original, torch.where(torch.rand(SHAPE) < 0.02, moved, original)


def by_quail(original: torch.Tensor, unlearned: torch.Tensor, threads: int) -> int:
    return pair_sums(original, unlearned, NF4, threads=threads).same_code


def by_bitsandbytes(original: torch.Tensor, unlearned: torch.Tensor, threads: int) -> int:
    quantize = bitsandbytes().functional.quantize_4bit
    differ = quantize(original, quant_type="nf4")[0] ^ quantize(unlearned, quant_type="nf4")[0]  # two codes a byte
    return int(((differ & 0xF0) == 0).sum() + ((differ & 0x0F) == 0).sum())


def by_bucketize(original: torch.Tensor, unlearned: torch.Tensor, threads: int) -> int:
    bounds = torch.from_numpy(NF4.grid.bounds)

    def codes(weight: torch.Tensor) -> torch.Tensor:
        blocks = weight.float().reshape(-1, NF4.grid.block_size)
        return torch.bucketize(blocks * (1 / blocks.abs().amax(1, keepdim=True)), bounds, out_int32=True)

    return int((codes(original) == codes(unlearned)).sum())


def by_reading(original: torch.Tensor, unlearned: torch.Tensor, threads: int) -> None:
    """Only sums the same bytes, as integers: a bound that no measurement can pass."""
    sides = [weight.reshape(-1).view(torch.int64).numpy() for weight in (original, unlearned)]
    parts = [part for side in sides for part in np.array_split(side, threads)]
    if threads == 1:
        for part in parts:
            part.sum()
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(np.sum, parts))


QUAIL = "Quail, every statistic"
WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], int | None]] = {
    QUAIL: by_quail,
    "bitsandbytes, then compare": by_bitsandbytes,
    "torch.bucketize, then compare": by_bucketize,
    "reading the bytes once": by_reading,
}


@dataclass
class Best:
    """Shortest times seen: by the clock, and of the processors, which leaves out what other processes took."""

    wall_s: float = float("inf")
    processor_s: float = float("inf")


def measure(pair: Pair, threads: int) -> dict[str, Best]:
    """The best of several rounds, in each of which every way has its turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = {way: Best() for way in WAYS}
        for round_ in range(ROUNDS):
            for way, function in WAYS.items():
                for _ in range(1 if way.endswith("then compare") else 5):  # as quick ones are more easily disturbed
                    wall, processor = time.perf_counter(), time.process_time()
                    function(*pair, threads)
                    wall_s, processor_s = time.perf_counter() - wall, time.process_time() - processor
                    if round_ > 0:  # the first compiles and warms
                        best[way] = Best(min(best[way].wall_s, wall_s), min(best[way].processor_s, processor_s))
        return best
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", [all_changed, nearly_all_identical], ids=["all changed", "98 % identical"])
def test_weights_per_second(case: Callable[[], Pair], capsys: pytest.CaptureFixture[str]) -> None:
    pair = case()
    same = by_quail(*pair, 1)
    assert by_bitsandbytes(*pair, 1) == same
    assert by_bucketize(*pair, 1) == same

    one, every = measure(pair, 1), measure(pair, CORES)
    weights = 2 * pair[0].numel()
    ours = one[QUAIL]
    with capsys.disabled():
        print(f"\n\n{case.__doc__} {weights / 1e6:.1f} M weights, both sides counted; overlap {2 * same / weights:.4f}")
        print(f"{'':31}{'1 thread':>12}{'Quail is':>10}{f'{CORES} threads':>13}{'gain':>8}{'if idle':>9}")
        for way, best in one.items():
            both = every[way]
            rate, rate_every = weights / best.processor_s / 1e6, weights / both.wall_s / 1e6
            ratio = best.processor_s / ours.processor_s
            gain, gain_if_idle = best.wall_s / both.wall_s, CORES * best.processor_s / both.processor_s
            print(
                f"{way:31}{rate:8,.0f} M/s{ratio:9.2f}x{rate_every:9,.0f} M/s{gain:7.2f}x"
                + (f"{gain_if_idle:8.2f}x" if way == QUAIL else "")
            )
        print(
            "Best of all rounds. One thread: by processor time. All threads and their gain: by the clock, so wrong\n"
            "where other processes want the processors too; 'if idle': the gain that processor time allows."
        )
