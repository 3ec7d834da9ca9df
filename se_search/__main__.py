"""``python -m se_search`` is ``se-search``."""

from .safe_path import leave_current_directory

leave_current_directory()

from .cli import main  # noqa: E402  # its imports must not find files of the current directory

main()
