"""Draw docs/cures.svg: nf4 on updates of every size, free and confined to their buckets.

    python docs/experiments/cures_figure.py docs/cures.svg

Gaussian weights, Gaussian updates. Survival and noise are those of DESIGN's formulas, as quail audit measures them.
"""

import math
import sys
from pathlib import Path

import torch

from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_train.carry.data_free import carry_matrix
from quail_train.carry.grid import deployed_update
from quail_train.demo.confinement import bucket_of

SHARES = [10 ** (exponent / 4) for exponent in range(-16, 3)]  # of the weights' standard deviation
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 680, 320, 50, 44, 16


def measure(share: float) -> dict[str, float]:
    """Survival free, confined and carried, and the free update's noise."""
    generator = torch.Generator().manual_seed(0)
    scheme = scheme_named("nf4")
    original = torch.randn(1024, 1024, generator=generator)
    free = original + share * torch.randn(original.shape, generator=generator)
    confined = free.clone()
    bucket_of(original, scheme).confine(confined)
    sums = pair_sums(original, free, scheme)
    kept, _ = deployed_update(
        original, confined, carry_matrix(original, confined, scheme, way="random", key=1).weight, scheme
    )
    return {
        "free": sums.survival or 0.0,
        "confined": pair_sums(original, confined, scheme).survival or 0.0,
        "confined, then carried": kept or 0.0,
        "noise": sums.noise or 0.0,
    }


def main(path: str) -> None:
    rows = [(share, measure(share)) for share in SHARES]
    for share, row in rows:
        print(f"{share:9.5f}  " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))

    def x(share: float) -> float:
        span = math.log(SHARES[-1] / SHARES[0])
        return LEFT + math.log(share / SHARES[0]) / span * (WIDTH - LEFT - 150)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - min(value, 1.2) / 1.2 * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 150}" fill="none" stroke="black"/>',
        *(f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>' for v in (0.0, 0.5, 1.0)),
        *(
            f'<text x="{x(s):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{s:g}</text>'
            for s in (1e-4, 1e-3, 1e-2, 0.1, 1)
        ),
        f'<text x="{(LEFT + WIDTH - 150) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">',
        "update, in standard deviations of the weights</text>",
    ]
    for row, (name, colour) in enumerate(
        {"free": "#0b6e99", "confined": "#c2271a", "confined, then carried": "#2c8a3d"}.items()
    ):
        line = " ".join(f"{x(share):.1f},{y(found[name]):.1f}" for share, found in rows)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 144}" y="{TOP + 14 + 18 * row}" fill="{colour}">{name}</text>')
    noisy = next(share for share, found in rows if found["noise"] < 5.0)
    parts.append(f'<path d="M{x(noisy):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="gray" stroke-dasharray="4"/>')
    parts.append(
        f'<text x="{x(noisy) - 4:.1f}" y="{TOP + 12}" text-anchor="end" fill="gray">noise above 5: drowned</text>'
    )
    Path(path).write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
