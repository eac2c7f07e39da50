"""The README's picture, `docs/hero.png`: what pixels know of the classes, and what gates know and learn.

`python docs/hero.py`; two minutes on two cores.
"""

import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np

import npk
from npk import data, networks, solving, training

DRAWS, STUDENT = 5, 2.776  # networks, and the quantile of a 95 % interval for their mean
digits = data.load("digits")
shown = data.balanced(digits.y_train, 300, seed=0)  # ordered by class
model = networks.MLP(width=128, depth=5, use_bias=False)
f = model.apply


def stages(seed):
    """Parameters before and after training."""
    params = model.init(jax.random.key(seed), digits.x_train[:1])
    key = jax.random.key(100 + seed)
    return training.train(f, params, digits.x_train, digits.y_train, key=key, epochs=60, stages=2).stages


def overlap(p, a, b=None):
    """Λ: the share of all paths that are open for both images."""
    return npk.overlap(npk.gates(f)(p, a), None if b is None else npk.gates(f)(p, b))


def pixels(_, a, b=None):
    return npk.gram(a.reshape(len(a), -1), None if b is None else b.reshape(len(b), -1))


def accuracy(kernel, p):
    """Of ridge regression with a kernel, on the test images."""
    own, across = kernel(p, digits.x_train), kernel(p, digits.x_test, digits.x_train)
    return solving.classify(own, across, digits.y_train, digits.y_test).test_accuracy


def interval(values):
    error = STUDENT * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):.1%}" + (f" ± {100 * error:.1f}" if len(values) > 1 else "")


drawn = [stages(seed) for seed in range(DRAWS)]
panels = (
    ("pixels alone, Σ", pixels, [None]),
    ("gates alone, Λ, before training", overlap, [draw[0] for draw in drawn]),
    ("gates alone, Λ, after training", overlap, [draw[-1] for draw in drawn]),
)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
for axis, (title, kernel, parameters) in zip(axes, panels, strict=True):
    k = np.asarray(kernel(parameters[0], digits.x_train[shown]))
    size = np.sqrt(np.diagonal(k))
    axis.imshow(k / np.outer(size, size), vmin=0, vmax=1, cmap="magma")
    axis.set_title(title, fontsize=11)
    axis.set(xticks=[], yticks=[], xlabel=f"test accuracy {interval([accuracy(kernel, p) for p in parameters])}")
figure.savefig(pathlib.Path(__file__).with_name("hero.png"), dpi=130)
