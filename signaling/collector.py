"""The garbage collector of a server process: what is there for good is not looked at again and again.

A full collection goes through everything that lives, and Python begins one whenever a quarter has been added. Modules,
models and routes are a hundred thousand objects and a tenth of a second in which nobody is answered.
"""

from __future__ import annotations

import gc

YOUNG_MAX = 5_000
"""New objects from which the youngest are looked at; requests leave next to no cycles, so seldom is often enough."""


def settle() -> None:
    """Call it when everything is loaded, before serving."""
    gc.collect()
    gc.freeze()
    _, second, third = gc.get_threshold()
    gc.set_threshold(YOUNG_MAX, second, third)
