"""neural-tangents on today's JAX: the names it misses are given to it alone, by an import hook."""

from npk.infinite.loader.loading import load as load

__all__ = [
    "load",
]
