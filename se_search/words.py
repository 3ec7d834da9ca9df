"""Words that several parts say in the same way."""


def counted(number: int, word: str) -> str:
    """Return a number with its word: 1 epoch, 2 epochs."""
    return f"{number} {word}" + ("" if number == 1 else "s")
