"""Numbers in the words and units that people use."""

import math

__all__ = ["amount", "angstrom", "count", "duration", "memory"]


def amount(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, never in exponent form; None as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.{digits - 1}e}")  # 9.996 has one decimal less than 9.994
    decimals = digits - 1 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:.{max(decimals, 0)}f}".replace("-", "−")


def angstrom(value: float | None) -> str:
    """Return a resolution; None or infinite means that the curve never reached the criterion."""
    if value is None or not math.isfinite(value):
        return "not determined"
    return f"{value:.2f} Å" if value < 100 else f"{value:.0f} Å"


def count(value: int | None) -> str:
    """Return a whole number with its thousands apart."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{amount(seconds, 2)} s"
    whole = round(seconds)
    for size, unit, small, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {small_unit}"
    return f"{whole} s"


def memory(n_bytes: float | None) -> str:
    """Return an amount of memory or a file's size in decimal units."""
    if n_bytes is None:
        return "–"
    value = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{amount(value)} {unit}"
        value /= 1000
    return f"{amount(value)} TB"
