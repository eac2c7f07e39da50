"""A probe of three classes, and a small network of it."""

import flax.linen as nn
import numpy as np

RANDOM = np.random.default_rng(0)
N, WIDTH, OUTPUTS = 9, 7, 2
X = RANDOM.normal(size=(N, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0])


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(OUTPUTS)(nn.relu(nn.Dense(WIDTH)(x)))


def steps_of(recorder):
    return [record.step for record in recorder.records]
