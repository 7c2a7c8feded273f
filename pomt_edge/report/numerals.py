"""Numbers as text: one place decides decimals, signs and what stands where there is no number."""

from __future__ import annotations

import math

ABSENT = "–"


def finite(*values: float | None) -> bool:
    """Whether every value is there and is a number; a record read from elsewhere may hold None or NaN."""
    return all(value is not None and math.isfinite(value) for value in values)


def number(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def signed(value: float | None, decimals: int) -> str:
    text = number(value, decimals)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, decimals) > 0 else text


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """'1.28 to 1.34', or nothing where an end is missing: half an interval says nothing."""
    return f"{number(low, decimals)} to {number(high, decimals)}" if finite(low, high) else ""


def ms_decimals(typical_ms: float) -> int:
    """Decimals that leave four significant digits, so that a step of 1 % stays visible."""
    if not math.isfinite(typical_ms) or typical_ms <= 0:
        return 3
    return min(4, max(0, 3 - math.floor(math.log10(typical_ms))))


def join(items: list[str]) -> str:
    """'3', '3 and 6', '3, 6 and 9'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
