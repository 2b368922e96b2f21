"""Draw a recipe's curve as SVG: bytes to the right, recovery upwards."""

from collections.abc import Sequence

from quail_audit.reports import wording
from quail_audit.schema.events.cures import RecipePoint

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 60, 50, 20, 20
COLOURS = {16: "#0b6e99", 8: "#c2571a"}


def render(points: Sequence[RecipePoint], chosen: RecipePoint | None, limit_percent: float) -> str:
    """Return an SVG of every measured point, a line for each number of bits, the limit, and the chosen point."""
    least, most = min(p.size_bytes for p in points), max(p.size_bytes for p in points)
    span = max(1, most - least)
    top = max(100.0, *(point.recovery_percent for point in points))

    def x(size_bytes: float) -> float:
        return LEFT + (size_bytes - least) / span * (WIDTH - LEFT - RIGHT)

    def y(percent: float) -> float:
        return HEIGHT - BOTTOM - max(0.0, percent) / top * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>',
        f'<path d="M{LEFT} {y(limit_percent):.1f}H{WIDTH - RIGHT}" stroke="gray" stroke-dasharray="4"/>',
        *(f'<text x="{LEFT - 6}" y="{y(p) + 4:.1f}" text-anchor="end">{p:g} %</text>' for p in (0, 50, 100)),
        f'<text x="{LEFT}" y="{HEIGHT - 28}">{wording.byte_size(least)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 28}" text-anchor="end">{wording.byte_size(most)}</text>',
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">bytes of the layers</text>',
    ]
    for row, (bits, colour) in enumerate(COLOURS.items()):
        line = sorted((point for point in points if point.bits == bits), key=lambda point: point.size_bytes)
        if not line:
            continue
        path = " ".join(f"{x(point.size_bytes):.1f},{y(point.recovery_percent):.1f}" for point in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{x(point.size_bytes):.1f}" cy="{y(point.recovery_percent):.1f}" r="3" fill="{colour}"/>'
            for point in line
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{TOP + 14 + 16 * row}" text-anchor="end" fill="{colour}">'
            f"spared layers in {bits} bits</text>"
        )
    if chosen is not None:
        parts.append(
            f'<circle cx="{x(chosen.size_bytes):.1f}" cy="{y(chosen.recovery_percent):.1f}" r="7" fill="none" '
            'stroke="black" stroke-width="2"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
