"""Kernels and targets whose regression is tested."""

import numpy as np


def gaussian(n, seed=0, width=20.0):
    x = np.random.default_rng(seed).normal(size=(n, 5))
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / width)


def targets(n, k=3, seed=1):
    return np.random.default_rng(seed).normal(size=(n, k))
