"""How numbers are written in the report."""

from __future__ import annotations

import math

MINUS = "\u2212"
NONE = "\u2013"
TIMES = "\u00d7"


def finite(value: object) -> float | None:
    """`value` as a finite float, or None where it is no number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def count(value: object) -> str:
    """Count with separated thousands: 12,345."""
    number = finite(value)
    return NONE if number is None else f"{number:,.0f}".replace("-", MINUS)


def decimal(value: object, digits: int = 4) -> str:
    """Write a number with `digits` significant digits, thousands separated."""
    number = finite(value)
    if number is None:
        return NONE
    places = 0 if not number else max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{min(places, 8)}f}".replace("-", MINUS)


def signed(value: object, digits: int = 3) -> str:
    """Difference, with its sign and `digits` significant digits."""
    number = finite(value)
    if number is None:
        return NONE
    return ("+" if number > 0 else "") + decimal(number, digits)


def share(value: object) -> str:
    """Share (0 to 1) in per cent, one decimal below 10 %."""
    number = finite(value)
    if number is None:
        return NONE
    return f"{number:.0%}" if number >= 0.0995 or not number else f"{number:.1%}"


def scientific(value: object) -> str:
    """Small setting such as a learning rate: 0.0003 stays as it is, smaller ones in powers of ten."""
    number = finite(value)
    return NONE if number is None else f"{number:.4g}"


def seconds(value: object) -> str:
    """Time in seconds, minutes or hours, as one would say it: 0.4 s, 12 s, 3 min 20 s, 1 h 05 min."""
    number = finite(value)
    if number is None:
        return NONE
    if number < 9.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def times(value: object) -> str:
    """Ratio with one decimal from 1 to 10 and two below, as in "4.2 times"."""
    number = finite(value)
    if number is None:
        return NONE
    return f"{number:.{0 if number >= 9.95 or not number else 1 if number >= 0.995 else 2}f}{TIMES}"
