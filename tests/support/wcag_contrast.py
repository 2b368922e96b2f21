"""Colour arithmetic written from the standards, to judge the themes by: it shares no code with the app."""

Rgb = tuple[float, float, float]  # 0 to 1, sRGB

# Machado, Oliveira and Fernandes (2009), severity 1.0, applied to linear RGB.
COLOUR_VISION: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def rgb(text: str) -> Rgb:
    """#rrggbb"""
    assert len(text) == 7, text
    return int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255


def linear(colour: Rgb) -> Rgb:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return red, green, blue


def luminance(colour: Rgb) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Rgb, other: Rgb) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    a, b = luminance(one) + 0.05, luminance(other) + 0.05
    return max(a, b) / min(a, b)


def over(text: Rgb, alpha: float, ground: Rgb) -> Rgb:
    """A colour with alpha on an opaque ground."""
    red, green, blue = (a * alpha + b * (1 - alpha) for a, b in zip(text, ground, strict=True))
    return red, green, blue


def lab(linear_rgb: Rgb) -> tuple[float, float, float]:
    """CIE 1976 L*a*b*, D65 (IEC 61966-2-1 primaries)."""
    red, green, blue = linear_rgb
    xyz = (
        (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047,
        0.2126729 * red + 0.7151522 * green + 0.0721750 * blue,
        (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883,
    )
    x, y, z = (part ** (1 / 3) if part > 216 / 24389 else (24389 / 27 * part + 16) / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def lightness(colour: Rgb) -> float:
    """L*, 0 to 100."""
    return lab(linear(colour))[0]


def seen_with(vision: str, colour: Rgb) -> Rgb:
    """The linear RGB that a person with this colour vision takes the colour for."""
    start = linear(colour)
    red, green, blue = (
        min(1.0, max(0.0, sum(weight * part for weight, part in zip(row, start, strict=True))))
        for row in COLOUR_VISION[vision]
    )
    return red, green, blue


def difference(one: Rgb, other: Rgb) -> float:
    """Delta E of 1976 between two linear RGB colours; about 2.3 is just noticeable."""
    return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5
