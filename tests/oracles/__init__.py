"""Slow and obvious references. Nothing here imports npk."""
