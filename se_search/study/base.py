"""Limits of the numbers in definitions."""

from typing import Annotated

from pydantic import Field

MOST_PIXELS, MOST_IMAGES = 2**14, 2**20  # larger values are mistakes or exhaust memory
Threads = Annotated[int, Field(ge=1, le=4096)]
