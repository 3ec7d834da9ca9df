"""``python -m se_search`` is ``se-search``."""

from .cli import main

main()
