"""Numbers, shares and names as text, in one format everywhere."""

from collections.abc import Collection, Iterable


def by(size: Iterable[int]) -> str:
    """Format a size: 3×224×224."""
    return "×".join(map(str, size))


def counted(number: int, word: str) -> str:
    """Format a number with a noun: 1 epoch, 2 epochs."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def percent(share: float, decimals: int = 2, sign: str = "") -> str:
    """Format a share: 74.75 %; with ``sign="+"`` a positive one has a sign too."""
    return f"{100 * share:{sign}.{decimals}f} %"


def percent_with_interval(share: float, low: float, high: float, *, decimals: int = 2, sign: str = "") -> str:
    """Format a share with its interval: 74.75 % [70.27, 78.76]."""
    form = f"{sign}.{decimals}f"
    return f"{percent(share, decimals, sign)} [{100 * low:{form}}, {100 * high:{form}}]"


def points_with_interval(difference: float, low: float, high: float) -> str:
    """Format a difference of shares with its interval: +2.00 points [-0.39, +4.37]."""
    return f"{100 * difference:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"


def duration(seconds: float) -> str:
    """Format a duration: 40 s, 2.5 min, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def size_of_files(number: float) -> str:
    """Format a number of bytes: 5 MB, 1.2 GB."""
    return f"{max(number / 1e6, 1):.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def upper_first(text: str) -> str:
    """Start a text with a capital letter and leave the others as they are."""
    return text[:1].upper() + text[1:]


def some_of(names: Collection[str]) -> str:
    """List the first three names and the number of the others."""
    shown = [repr(name) for name in sorted(names)[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
