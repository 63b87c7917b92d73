"""Numbers as people read them: in a check's message, a figure's title, a printed line.

Floating point differs in its last digits from processor to processor, and so would every text that shows them. Here a
number keeps the digits that say something: what a comparison takes for zero is shown as 0, and a value that lies on
the edge between two roundings falls on the same side everywhere.

Plain Python: everything may import it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

#: What a comparison in float32 takes for zero, beside numbers around 1.
TOLERANCE = 1e-5


def number(value: float, digits: int = 3, *, scale: float = 1.0, tolerance: float = TOLERANCE) -> str:
    """A number with ``digits`` significant digits, or ``"0"`` where it is nothing but rounding.

    Args:
        value: what to show.
        digits: as many as the reader needs.
        scale: the size of the numbers that it is compared with.
        tolerance: how much of ``scale`` counts as zero; 0 for a number that is not compared with any.

    Example:
        >>> number(-7.69e-15), number(2 / 3), number(1234567.0)
        ('0', '0.667', '1,230,000')
        >>> number(5.4449999), number(5.4450001)  # on either side of an edge
        ('5.45', '5.45')
        >>> number(2e-6, tolerance=0)
        '2e-06'
    """
    value = float(value)
    if abs(value) <= tolerance * scale:
        return "0"
    text = f"{settled(value, digits):.{digits}g}"
    return f"{float(text):,.0f}" if "e" in text and 1000 <= abs(value) < 1e9 else text


def settled(value: float, digits: int) -> float:
    """The value without its last digits: what is 5.445 but for rounding is 5.445, and so rounds the same everywhere.

    Example:
        >>> settled(0.30000000000000004, 3)
        0.3
    """
    return float(f"{value:.{digits + 2}g}")


def pair(seen: float, expected: float, *, scale: float = 1.0, tolerance: float = TOLERANCE) -> tuple[str, str]:
    """What was seen and what was expected, with three digits or as many as it takes to tell them apart, up to seven.

    Example:
        >>> pair(0.25, 2 / 3), pair(0.66671, 2 / 3), pair(-1.7e-7, 1.0)
        (('0.25', '0.667'), ('0.66671', '0.66667'), ('0', '1'))
    """
    for digits in range(3, 8):
        first, second = (number(value, digits, scale=scale, tolerance=tolerance) for value in (seen, expected))
        if first != second:
            break
    return first, second


def row(values: Iterable[float], most: int = 6, *, tolerance: float = TOLERANCE) -> str:
    """The first few of some values in brackets; what is rounding beside the largest is 0.

    Example:
        >>> row([3.0, -2e-8, 1.0]), row(range(9), most=2)
        ('[3, 0, 1]', '[0, 1, ...]')
    """
    values = [float(value) for value in values]
    scale = max(map(abs, values), default=0.0)
    shown = [number(value, scale=scale, tolerance=tolerance) for value in values[:most]]
    return f"[{', '.join(shown)}{', ...' if len(values) > most else ''}]"


def apart(gap: float, *, scale: float = 1.0, tolerance: float = TOLERANCE) -> str:
    """How far two results differ, for a sentence: they "differ ...".

    Example:
        >>> apart(3e-7), apart(0.25)
        ('only by rounding', 'by up to 0.25')
    """
    return "only by rounding" if gap <= tolerance * scale else f"by up to {number(gap, 2, tolerance=0)}"


def at_most(value: float) -> str:
    """The power of ten that bounds a number that is rounding itself: its digits are the processor's, its size is not.

    Example:
        >>> at_most(3.4e-16), at_most(0)
        ('1e-15', '0')
    """
    return f"{10.0 ** math.ceil(math.log10(settled(value, 2))):.0e}" if value > 0 else "0"


def within(share: float) -> str:
    """A bound on a share, as people write it: one digit, rounded up; two from 10% on.

    Example:
        >>> within(0.000561), within(0.143), within(5.7e-7)
        ('within 0.06%', 'within 15%', 'within 0.00006%')
    """
    value = settled(100 * share, 3)
    digits = 1 if value < 10 else 2
    places = digits - 1 - math.floor(math.log10(value))
    bound = math.ceil(settled(value * 10**places, 5)) / 10**places
    return f"within {bound:.{max(0, places)}f}%"
