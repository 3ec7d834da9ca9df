"""Words that several parts say in the same way."""

from collections.abc import Collection, Iterable


def by(size: Iterable[int]) -> str:
    """Return a size in words: 3×224×224."""
    return "×".join(map(str, size))


def counted(number: int, word: str) -> str:
    """Return a number with its word: 1 epoch, 2 epochs."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def some_of(names: Collection[str]) -> str:
    """Return the first three names, and how many more there are."""
    shown = [repr(name) for name in sorted(names)[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
