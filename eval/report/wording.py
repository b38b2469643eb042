"""How figures are written for people: shares in per cent, differences in points, dollars, and None as "unknown"."""

from __future__ import annotations

from eval.results import PairedDifference, ReplayRow

__all__ = ["MINUS", "dollars", "interval", "number", "percent", "points", "size_of", "strategy_name"]

MINUS = "\N{MINUS SIGN}"
_UNKNOWN = "unknown"


def percent(share: float | None) -> str:
    """A share 0..1 with one decimal, without the sign: 0.4567 is "45.7"."""
    return _UNKNOWN if share is None else f"{100 * share:.1f}"


def interval(ends: tuple[float, float] | None) -> str:
    """Both ends of an interval of shares in per cent; nothing where there is none."""
    return "" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"


def points(difference: PairedDifference | None) -> str:
    """A paired difference in percentage points with its interval: "+1.2 (-0.4 to +2.8)"."""
    if difference is None:
        return ""
    return f"{_signed(difference.mean)} ({_signed(difference.low)} to {_signed(difference.high)})"


def _signed(share: float) -> str:
    rounded = round(100 * share, 1) + 0.0  # no minus before a zero
    return f"{rounded:+.1f}".replace("-", MINUS)


def dollars(cost_usd: float | None) -> str:
    """US dollars with three figures; "unknown" where a price is not known, which is not "nothing"."""
    if cost_usd is None:
        return _UNKNOWN
    return f"{cost_usd:.2f}" if cost_usd == 0 or cost_usd >= 1 else f"{cost_usd:.3g}"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def size_of(row: ReplayRow) -> str:
    """The k of a row: a number, or "free" where the recruiter sizes its panel itself."""
    return "free" if row.k is None else str(row.k)


def strategy_name(row: ReplayRow) -> str:
    """Recruiter, aggregator and k in one phrase."""
    return f"{row.recruiter} + {row.aggregator}, k = {size_of(row)}"
