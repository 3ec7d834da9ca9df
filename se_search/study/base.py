"""Limits of the numbers in definitions."""

from typing import Annotated

from pydantic import Field

MOST_PIXELS, MOST_IMAGES = 2**14, 2**20  # what is beyond is a slip, or meant to use up a machine
Threads = Annotated[int, Field(ge=1, le=4096)]
