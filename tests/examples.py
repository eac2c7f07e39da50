"""How many random networks a property is tried on: few in every run, NPK_EXAMPLES times as many on demand."""

import os

from hypothesis import settings

TIMES = int(os.environ.get("NPK_EXAMPLES", "1"))


def examples(count):
    """Settings of a property that is dear to try: every network is a program to compile."""
    return settings(max_examples=TIMES * count)
