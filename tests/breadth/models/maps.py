"""Maps of constant coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
from breadth.models.layers import UNet
from breadth.models.making import MODELS, TOKENS, WIDTH, linen, model, plain

MAPS = "fixed maps"


@model(MAPS, "U-Net, resized bilinearly")
def _():
    return linen(UNet(), 3, 4, 4, 1)


def a_map(name: str, gates: int | None = 1):
    """A map of positions between two layers at every position."""

    def enter(move):
        def f(p, x):
            return jax.nn.relu(move(x @ p["a"])).mean(1) @ p["c"]

        MODELS.setdefault(MAPS, {})[name] = lambda: plain(f, gates, TOKENS, WIDTH, a=(WIDTH, 3), c=(3, 1))
        return move

    return enter


ADJACENT = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])


@a_map("graph network, an adjacency matrix")
def _(h):
    return ADJACENT @ h


@a_map("graph network, `segment_sum` over edges")
def _(h):
    source, target = np.array([0, 1, 1, 2, 2]), np.array([1, 0, 2, 1, 0])
    return jax.vmap(lambda one: jax.ops.segment_sum(one[source], target, TOKENS))(h)


@a_map("cumulative sum")
def _(h):
    return jnp.cumsum(h, axis=1)


@a_map("blur")
def _(h):
    kernel = np.array([0.25, 0.5, 0.25])[:, None, None] * np.eye(3)
    return jax.lax.conv_general_dilated(
        h, kernel.astype(h.dtype), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )


@a_map("Fourier transform (FNet)")
def _(h):
    return jnp.real(jnp.fft.fft(h, axis=1))


@a_map("moving average by `reduce_window`")
def _(h):
    return jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 2, 1), (1, 1, 1), "SAME") / 2


@a_map("sorted positions", gates=None)
def _(h):
    return jnp.sort(h, axis=1)


@model(MAPS, "graph network, attention over an adjacency (GAT)")
def _():
    def f(p, x):
        h = x @ p["a"]
        score = jax.nn.leaky_relu(h @ p["to"] + (h @ p["of"]).swapaxes(1, 2), 0.2)
        a = jax.nn.softmax(jnp.where(ADJACENT > 0, score, -jnp.inf))
        return jax.nn.relu(a @ h).mean(1) @ p["c"]

    return plain(f, 2, TOKENS, WIDTH, a=(WIDTH, 3), to=(3, 1), of=(3, 1), c=(3, 1))
