"""Architectures as users write them, each a few weights wide: `MODELS["attention"]["softmax"]()`.

A model is f, its parameters and inputs, and the number of its gates. What it is made of is in the table of breadth.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import pallas as pl

import npk
from npk import networks

SAMPLES, TOKENS, WIDTH, WORDS = 3, 3, 2, 3


@dataclasses.dataclass(frozen=True)
class Model:
    """f(params, x), and the number of its gates: None where f itself is refused."""

    f: Callable[[Any, Any], Any]
    params: Any
    x: Any
    gates: int | None
    precision: float = 1e-10  # relative
    affine: bool = True  # given its gates: not where a part of f sees all samples
    arc_cosine: bool = False  # ReLU layers of weights alone


MODELS: dict[str, dict[str, Callable[[], Model]]] = {}


def model(group: str, name: str):
    def enter(make: Callable[[], Model]):
        MODELS.setdefault(group, {})[name] = make
        return make

    return enter


# -- numbers -------------------------------------------------------------------------------------------


def drawn(shapes: Any) -> Any:
    """Parameters of these shapes: a tree of tuples or of what `jax.eval_shape` returns."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        shape = leaf if isinstance(leaf, tuple) else leaf.shape
        name = jax.tree_util.keystr(path)
        if any(part in name for part in ("scale", "var", "weight_norm")):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape))
        return jnp.asarray(rng.normal(size=shape) * 0.7)

    return jax.tree_util.tree_map_with_path(draw, shapes, is_leaf=_is_shape)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and all(isinstance(size, int) for size in leaf)


def batch(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(size=(SAMPLES, *shape)))


def sentences() -> Any:
    return jnp.asarray([[1, 2, 1], [2, 1, 0], [1, 1, 2]], jnp.int32)


def plain(f, gates, *shape, x=None, precision=1e-10, affine=True, **leaves) -> Model:
    """A function of a dictionary of arrays."""
    return Model(f, drawn(leaves), batch(*shape) if x is None else x, gates, precision, affine)


def linen(module: nn.Module, gates, *shape, x=None, f=None, precision=1e-10, **options) -> Model:
    x = batch(*shape) if x is None else x
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **options))
    apply = (lambda p, x: module.apply(p, x, **options)) if options else module.apply
    return Model(f or apply, drawn(variables), x, gates, precision)


def of_nnx(make: Callable[[nnx.Rngs], nnx.Module], gates, *shape, x=None, precision=1e-10) -> Model:
    graph, state, rest = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), (nnx.Param, nnx.BatchStat), ...)
    rest = nnx.split(make(nnx.Rngs(0)), (nnx.Param, nnx.BatchStat), ...)[2] if jax.tree.leaves(rest) else rest

    def f(params, x):
        return nnx.merge(graph, params, rest)(x)

    return Model(f, drawn(state), batch(*shape) if x is None else x, gates, precision)


def equinox(make: Callable[[Any], Any], gates, *shape) -> Model:
    """Equinox writes models of one sample."""
    params, static = eqx.partition(eqx.filter_eval_shape(make, jax.random.key(0)), _is_float)

    def f(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return Model(f, drawn(params), batch(*shape), gates)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.floating)


# -- networks of layers --------------------------------------------------------------------------------


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3, 3))(x))
        x = nn.relu(nn.Conv(2, (3, 3), strides=2)(x))
        return nn.Dense(2)(x.mean((1, 2)))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = jnp.concatenate([x, nn.Conv(1, (2, 2))(nn.relu(x))], axis=-1)
        return nn.Dense(1)(x.mean((1, 2)))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        wide = nn.relu(nn.Conv(1, (2, 2))(x))
        deep = nn.relu(nn.Conv(1, (2, 2))(nn.avg_pool(wide, (2, 2), (2, 2))))
        up = jax.image.resize(deep, (*wide.shape[:-1], 1), "bilinear")
        x = nn.relu(nn.Conv(1, (1, 1))(jnp.concatenate([wide, up], axis=-1)))
        return nn.Dense(1)(x.mean((1, 2)))


class Normed(nn.Module):
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(self.norm()(nn.Dense(4)(x))).reshape(len(x), -1))


def mlp(p, x):
    return jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]


MLP = {"a": (3, 4), "b": (4, 3), "c": (3, 2)}
LAYERS = "layers"


@model(LAYERS, "MLP")
def _():
    return dataclasses.replace(plain(mlp, 2, 3, **MLP), arc_cosine=True)


@model(LAYERS, "`npk.networks.MLP`, gelu")
def _():
    return linen(networks.MLP(width=3, depth=3, outputs=2, activation=nn.gelu), 2, 3)


@model(LAYERS, "MLP, tanh and leaky ReLU")
def _():
    return plain(lambda p, x: jax.nn.leaky_relu(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"], 2, 3, **MLP)


@model(LAYERS, "MLP, softplus")
def _():
    return plain(lambda p, x: jax.nn.softplus(x @ p["a"]) @ p["c"], None, 3, a=(3, 3), c=(3, 2))


@model(LAYERS, "maxout")
def _():
    return plain(lambda p, x: jnp.einsum("ni,ijk->njk", x, p["a"]).max(2) @ p["c"], 1, 3, a=(3, 3, 2), c=(3, 2))


@model(LAYERS, "residual MLP, `lax.scan` over layers")
def _():
    def f(p, x):
        h, _ = jax.lax.scan(lambda h, w: (h + jax.nn.relu(h @ w), None), x @ p["a"], p["layers"])
        return h @ p["c"]

    return plain(f, 2, 3, a=(3, 2), layers=(2, 2, 2), c=(2, 1))


@model(LAYERS, "Equinox MLP")
def _():
    return equinox(lambda key: eqx.nn.MLP(3, 1, width_size=3, depth=2, key=key), 2, 3)


@model(LAYERS, "NNX MLP")
def _():
    return of_nnx(lambda rngs: nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), nnx.relu, nnx.Linear(3, 2, rngs=rngs)), 1, 3)


@model(LAYERS, "CNN of the README")
def _():
    return linen(CNN(), 2, 4, 4, 1)


@model(LAYERS, "`C4GAP`")
def _():
    return linen(networks.C4GAP(channels=2, outputs=1), 4, 2, 2, 1)


@model(LAYERS, "`VCONV`")
def _():
    return linen(networks.VCONV(channels=2, outputs=1), 4, 2, 2, 1)


@model(LAYERS, "`GCONV`")
def _():
    return linen(networks.GCONV(width=1, outputs=1), 6, 2, 2, 1)


@model(LAYERS, "VGG: convolutions, max-pooling, dense layers")
def _():
    class VGG(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(2, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.max_pool(nn.relu(nn.Conv(2, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(1)(nn.relu(nn.Dense(2)(x.reshape(len(x), -1))))

    return linen(VGG(), 5, 4, 4, 1)


@model(LAYERS, "`ResNet`, batch norm in evaluation")
def _():
    return linen(networks.ResNet(depth=8, width=1, outputs=1), 7, 2, 2, 1)


@model(LAYERS, "DenseNet, growth 1")
def _():
    return linen(DenseNet(), 2, 3, 3, 1)


@model(LAYERS, "depthwise and pointwise convolutions")
def _():
    class Separable(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(2, (3, 3), feature_group_count=2)(x))
            return nn.Dense(1)(nn.relu(nn.Conv(2, (1, 1))(x)).mean((1, 2)))

    return linen(Separable(), 2, 3, 3, 2)


@model(LAYERS, "transposed convolution")
def _():
    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.ConvTranspose(2, (2, 2), strides=(2, 2))(x)).reshape(len(x), -1))

    return linen(Decoder(), 1, 2, 2, 2)


@model(LAYERS, "Deep Sets")
def _():
    def f(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["a"]).sum(1) @ p["b"]) @ p["c"]

    return plain(f, 2, 2, 3, **MLP)


@model(LAYERS, "SIREN (sines)")
def _():
    return plain(lambda p, x: jnp.sin(30 * jnp.sin(30 * (x @ p["a"])) @ p["b"]) @ p["c"], 2, 3, **MLP, precision=1e-8)


# -- weights that are none, or twice -------------------------------------------------------------------

REUSE = "weights twice, made, masked"


@model(REUSE, "one layer applied twice")
def _():
    return plain(lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["w"]) @ p["w"]) @ p["c"], 2, 2, w=(2, 2), c=(2, 1))


@model(REUSE, "weight normalisation")
def _():
    def f(p, x):
        return jax.nn.relu(x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0, keepdims=True) * p["g"])) @ p["c"]

    return plain(f, 1, 2, w=(2, 3), g=(3,), c=(3, 1))


@model(REUSE, "pruning mask")
def _():
    mask = np.arange(6).reshape(2, 3) % 2.0
    return plain(lambda p, x: jax.nn.relu(x @ (p["w"] * mask)) @ p["c"], 1, 2, w=(2, 3), c=(3, 1))


@model(REUSE, "low-rank adaptation (W + BA)")
def _():
    def f(p, x):
        return jax.nn.relu(x @ p["w"] + x @ p["a"] @ p["b"]) @ p["c"]

    return plain(f, 1, 2, w=(2, 3), a=(2, 1), b=(1, 3), c=(3, 1))


class Recurrent(nn.Module):
    cell: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.RNN(self.cell)(x)[:, -1])


@model(REUSE, "GRU in a scan")
def _():
    return linen(Recurrent(nn.GRUCell(2, param_dtype=jnp.float64)), None, TOKENS, WIDTH)


@model(REUSE, "LSTM in a scan")
def _():
    return linen(Recurrent(nn.LSTMCell(2, param_dtype=jnp.float64)), 14, TOKENS, WIDTH)


# -- norms ---------------------------------------------------------------------------------------------

NORMS = "norms"


def a_norm(name: str, norm, gates: int | None = 2, *shape: int):
    MODELS.setdefault(NORMS, {})[name] = lambda: linen(Normed(norm), gates, *(shape or (3,)))


def an_nnx_norm(name: str, norm, *shape: int, gates: int = 2):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a, self.norm = nnx.Linear(3, 4, rngs=rngs), norm(rngs)
            self.b = nnx.Linear(4 * math.prod(shape), 1, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.norm(self.a(x))).reshape(len(x), -1))

    MODELS.setdefault(NORMS, {})[name] = lambda: of_nnx(Net, gates, *shape, 3)


def an_equinox_norm(name: str, norm):
    class Net(eqx.Module):
        a: Any
        norm: Any
        b: Any

        def __init__(self, key):
            self.a, self.norm, self.b = eqx.nn.Linear(3, 4, key=key), norm(), eqx.nn.Linear(4, 1, key=key)

        def __call__(self, x):
            return self.b(jax.nn.relu(self.norm(self.a(x))))

    MODELS.setdefault(NORMS, {})[name] = lambda: equinox(Net, 2, 3)


def layer_norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["shift"]


def rms_norm(p, x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * p["scale"]


@model(NORMS, "layer norm by hand")
def _():
    def f(p, x):
        return jax.nn.relu(layer_norm(p, x @ p["a"])) @ p["c"]

    return plain(f, 2, 3, a=(3, 3), scale=(3,), shift=(3,), c=(3, 1))


a_norm("layer norm, Linen", nn.LayerNorm)
an_nnx_norm("layer norm, NNX", lambda rngs: nnx.LayerNorm(4, rngs=rngs))
an_equinox_norm("layer norm, Equinox", lambda: eqx.nn.LayerNorm(4))


@model(NORMS, "RMS norm by hand")
def _():
    return plain(lambda p, x: jax.nn.relu(rms_norm(p, x @ p["a"])) @ p["c"], 2, 3, a=(3, 3), scale=(3,), c=(3, 1))


a_norm("RMS norm, Linen", nn.RMSNorm)
an_nnx_norm("RMS norm, NNX", lambda rngs: nnx.RMSNorm(4, rngs=rngs))
an_equinox_norm("RMS norm, Equinox", lambda: eqx.nn.RMSNorm(4))
a_norm("group norm, Linen", lambda: nn.GroupNorm(2), 2, 2, 3)
an_nnx_norm("group norm, NNX", lambda rngs: nnx.GroupNorm(4, 2, rngs=rngs), 2)
an_equinox_norm("group norm, Equinox", lambda: eqx.nn.GroupNorm(2, 4))
a_norm("instance norm, Linen", nn.InstanceNorm, 2, 2, 3)
an_nnx_norm("instance norm, NNX", lambda rngs: nnx.InstanceNorm(4, rngs=rngs), 2)
a_norm("batch norm in evaluation, Linen", lambda: nn.BatchNorm(True), 1)
an_nnx_norm(
    "batch norm in evaluation, NNX", lambda rngs: nnx.BatchNorm(4, use_running_average=True, rngs=rngs), gates=1
)


@model(NORMS, "batch norm in training")
def _():
    def f(p, x):
        h = x @ p["a"]
        h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5) * p["scale"] + p["shift"]
        return jax.nn.relu(h) @ p["c"]

    return plain(f, 1, 3, a=(3, 3), scale=(3,), shift=(3,), c=(3, 1), affine=False)


# -- attention -----------------------------------------------------------------------------------------

ATTENTION = "attention"
HEADS, SIZE = 2, 2
PROJECTIONS = {"q": (WIDTH, HEADS, SIZE), "k": (WIDTH, HEADS, SIZE), "v": (WIDTH, HEADS, SIZE)}
PROJECTIONS |= {"o": (HEADS, SIZE, WIDTH), "c": (WIDTH, 1)}
CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))


def scores(q, k):
    return jnp.einsum("nphd,nqhd->nhpq", q, k) / math.sqrt(SIZE)


def attending(attend: Callable[[Any, Any, Any], Any], kv_heads: int = HEADS, gates: int | None = 2, **options) -> Model:
    """Heads, given q, k and v [N, T, heads, size]; then the mean over tokens of an MLP's hidden layer."""

    def f(p, x):
        q, k, v = (jnp.einsum("npc,chd->nphd", x, p[name]) for name in "qkv")
        mixed = jnp.einsum("nphd,hdc->npc", attend(q, k, v), p["o"])
        return jax.nn.relu(mixed).mean(1) @ p["c"]

    leaves = PROJECTIONS | {name: (WIDTH, kv_heads, SIZE) for name in "kv"}
    return plain(f, gates, TOKENS, WIDTH, **leaves, **options)


def an_attention(name: str, kv_heads: int = HEADS, **options):
    def enter(attend):
        MODELS.setdefault(ATTENTION, {})[name] = lambda: attending(attend, kv_heads, **options)
        return attend

    return enter


def mixed(a, v):
    return jnp.einsum("nhpq,nqhd->nphd", a, v)


@an_attention("`jax.nn.softmax`")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k)), v)


@an_attention("softmax by hand, the maximum taken away")
def _(q, k, v):
    e = jnp.exp(scores(q, k) - scores(q, k).max(-1, keepdims=True))
    return mixed(e / e.sum(-1, keepdims=True), v)


@an_attention("softmax by hand, without a maximum")
def _(q, k, v):
    e = jnp.exp(scores(q, k))
    return mixed(e / e.sum(-1, keepdims=True), v)


@an_attention("exp of `log_softmax`")
def _(q, k, v):
    return mixed(jnp.exp(jax.nn.log_softmax(scores(q, k))), v)


@an_attention("exp of scores less `logsumexp`")
def _(q, k, v):
    return mixed(jnp.exp(scores(q, k) - jax.nn.logsumexp(scores(q, k), axis=-1, keepdims=True)), v)


@an_attention("values mixed before the division", gates=3)
def _(q, k, v):
    e = jnp.exp(scores(q, k))
    return mixed(e, v) / e.sum(-1).swapaxes(1, 2)[..., None]


@an_attention("causal mask by -inf")
def _(q, k, v):
    return mixed(jax.nn.softmax(jnp.where(CAUSAL, scores(q, k), -jnp.inf)), v)


@an_attention("causal mask by adding -1e9")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k) + np.where(CAUSAL, 0, -1e9)), v)


@an_attention("`jax.nn.softmax` with `where`")
def _(q, k, v):
    return mixed(jax.nn.softmax(scores(q, k), where=CAUSAL), v)


@an_attention("temperature and bias of distance (ALiBi)")
def _(q, k, v):
    distance = np.abs(np.arange(TOKENS) - np.arange(TOKENS)[:, None])
    return mixed(jax.nn.softmax((scores(q, k) - 0.5 * distance) / 0.7), v)


@an_attention("sigmoid attention")
def _(q, k, v):
    return mixed(jax.nn.sigmoid(scores(q, k) - math.log(TOKENS)), v)


@an_attention("`vmap` over heads")
def _(q, k, v):
    def head(q, k, v):
        return jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(SIZE)) @ v

    return jax.vmap(head, in_axes=2, out_axes=2)(q, k, v)


@an_attention("queries one at a time (`lax.map`)", gates=TOKENS + 1)
def _(q, k, v):
    def row(one):
        return jnp.einsum("nhq,nqhd->nhd", jax.nn.softmax(jnp.einsum("nhd,nqhd->nhq", one, k)), v)

    return jax.lax.map(row, q.swapaxes(0, 1)).swapaxes(0, 1)


@an_attention("grouped queries, keys repeated", kv_heads=1)
def _(q, k, v):
    k, v = (jnp.repeat(part, HEADS, axis=2) for part in (k, v))
    return mixed(jax.nn.softmax(scores(q, k)), v)


SINGLE = {"precision": 1e-5}  # scores in float32


@an_attention("`jax.nn.dot_product_attention`", **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


@an_attention("`jax.nn.dot_product_attention`, causal", **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


@an_attention("`jax.nn.dot_product_attention`, grouped queries", kv_heads=1, **SINGLE)
def _(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


@an_attention("linear attention, bare", gates=None)
def _(q, k, v):
    return mixed(scores(q, k), v)


@an_attention("linear attention, bare, declared by `as_gate`")
def _(q, k, v):
    return mixed(npk.as_gate(scores(q, k)), v)


@an_attention("linear attention, elu + 1, keys meet values first", gates=4)
def _(q, k, v):
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    state, total = jnp.einsum("nqhd,nqhe->nhde", k, v), k.sum(1)
    return jnp.einsum("nphd,nhde->nphe", q, state) / jnp.einsum("nphd,nhd->nph", q, total)[..., None]


def _pallas_kernel(q, k, v, out):
    out[:] = jax.nn.softmax(q[:] @ k[:].T / math.sqrt(SIZE)) @ v[:]


@an_attention("a Pallas kernel", gates=None)
def _(q, k, v):
    call = pl.pallas_call(_pallas_kernel, jax.ShapeDtypeStruct((TOKENS, SIZE), q.dtype), interpret=True)
    return jax.vmap(jax.vmap(call, in_axes=1, out_axes=1))(q, k, v)


@an_attention("a callback to the host", gates=None)
def _(q, k, v):
    def host(q, k, v):
        e = np.exp(np.einsum("nphd,nqhd->nhpq", q, k))
        return np.einsum("nhpq,nqhd->nphd", e / e.sum(-1, keepdims=True), v)

    return jax.pure_callback(host, jax.ShapeDtypeStruct(q.shape, q.dtype), q, k, v, vmap_method="expand_dims")


@an_attention("`while_loop` over keys", gates=None)
def _(q, k, v):
    def step(carry):
        i, top, bottom = carry
        e = jnp.exp(jnp.einsum("nphd,nhd->nph", q, jax.lax.dynamic_index_in_dim(k, i, 1, False)))
        value = jax.lax.dynamic_index_in_dim(v, i, 1, False)[:, None]
        return i + 1, top + e[..., None] * value, bottom + e

    start = (0, jnp.zeros_like(q), jnp.zeros(q.shape[:-1], q.dtype))
    _, top, bottom = jax.lax.while_loop(lambda c: c[0] < TOKENS, step, start)
    return top / bottom[..., None]


@model(ATTENTION, "cross-attention to a second part of the input")
def _():
    def f(p, x):
        to, of = x[:, :2], x[:, 2:]
        q = jnp.einsum("npc,chd->nphd", to, p["q"])
        k, v = (jnp.einsum("npc,chd->nphd", of, p[name]) for name in "kv")
        out = jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return jax.nn.relu(out).mean(1) @ p["c"]

    return plain(f, 2, 5, WIDTH, **PROJECTIONS)


@model(ATTENTION, "one matrix of queries, keys and values")
def _():
    def f(p, x):
        q, k, v = jnp.split((x @ p["qkv"]).reshape(*x.shape[:2], HEADS, 3 * SIZE), 3, axis=-1)
        out = mixed(jax.nn.softmax(scores(q, k)), v).reshape(*x.shape[:2], HEADS * SIZE)
        return jax.nn.relu(out @ p["o"]).mean(1) @ p["c"]

    return plain(f, 2, TOKENS, WIDTH, qkv=(WIDTH, 12), o=(4, WIDTH), c=(WIDTH, 1))


@model(ATTENTION, "padding mask")
def _():
    def f(p, x):
        seen, h = x != 0, p["table"][x]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        a = jax.nn.softmax(jnp.where(seen[:, None, None], scores(q, k), -jnp.inf))
        out = jnp.einsum("nphd,hdc->npc", mixed(a, v), p["o"])
        return ((out * seen[..., None]).sum(1) / seen.sum(1, keepdims=True)) @ p["c"]

    return plain(f, 3, x=sentences(), table=(WORDS, WIDTH), **PROJECTIONS)


class Linen(nn.Module):
    causal: bool = False
    cross: bool = False

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        attend = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=2)
        x = attend(x[:, :1], x[:, 1:]) if self.cross else attend(x, mask=mask)
        return nn.Dense(1)(x.mean(1))


@model(ATTENTION, "Linen multi-head")
def _():
    return linen(Linen(), 1, TOKENS, WIDTH)


@model(ATTENTION, "Linen multi-head, causal")
def _():
    return linen(Linen(causal=True), 1, TOKENS, WIDTH)


@model(ATTENTION, "Linen multi-head, cross")
def _():
    return linen(Linen(cross=True), 1, TOKENS, WIDTH)


class NNX(nnx.Module):
    def __init__(self, rngs, causal=False, cross=False, kv_heads=None):
        self.attend = nnx.MultiHeadAttention(
            2, WIDTH, 4, num_kv_heads=kv_heads, decode=False, deterministic=True, rngs=rngs
        )
        self.head, self.causal, self.cross = nnx.Linear(WIDTH, 1, rngs=rngs), causal, cross

    def __call__(self, x):
        mask = nnx.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        x = self.attend(x[:, :1], x[:, 1:]) if self.cross else self.attend(x, mask=mask)
        return self.head(x.mean(1))


@model(ATTENTION, "NNX multi-head")
def _():
    return of_nnx(NNX, 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX multi-head, causal")
def _():
    return of_nnx(functools.partial(NNX, causal=True), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX multi-head, cross")
def _():
    return of_nnx(functools.partial(NNX, cross=True), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "NNX grouped queries")
def _():
    return of_nnx(functools.partial(NNX, kv_heads=1), 1, TOKENS, WIDTH, **SINGLE)


@model(ATTENTION, "Equinox multi-head")
def _():
    class Net(eqx.Module):
        attend: Any
        head: Any

        def __init__(self, key):
            self.attend, self.head = eqx.nn.MultiheadAttention(2, WIDTH, key=key), eqx.nn.Linear(WIDTH, 1, key=key)

        def __call__(self, x):
            return self.head(self.attend(x, x, x).mean(0))

    return equinox(Net, 1, TOKENS, WIDTH)


# -- products ------------------------------------------------------------------------------------------

PRODUCTS = "products"
GLU = {"a": (3, 3), "b": (3, 3), "c": (3, 1)}


@model(PRODUCTS, "SwiGLU")
def _():
    return plain(lambda p, x: (jax.nn.silu(x @ p["a"]) * (x @ p["b"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "GEGLU")
def _():
    return plain(lambda p, x: ((x @ p["b"]) * jax.nn.gelu(x @ p["a"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "`jax.nn.glu`")
def _():
    return plain(lambda p, x: jax.nn.glu(x @ p["ab"]) @ p["c"], 1, 3, ab=(3, 6), c=(3, 1))


@model(PRODUCTS, "sigmoid gate, highway")
def _():
    def f(p, x):
        open_ = jax.nn.sigmoid(x @ p["a"])
        return (open_ * jax.nn.relu(x @ p["b"]) + (1 - open_) * x) @ p["c"]

    return plain(f, 2, 3, **GLU)


@model(PRODUCTS, "squeeze and excite")
def _():
    class SE(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(2, (2, 2))(x))
            s = nn.sigmoid(nn.Dense(2)(nn.relu(nn.Dense(1)(x.mean((1, 2))))))
            return nn.Dense(1)((x * s[:, None, None]).mean((1, 2)))

    return linen(SE(), 2, 3, 3, 1)


@model(PRODUCTS, "mixture of two experts")
def _():
    def f(p, x):
        share = jax.nn.softmax(x @ p["router"])
        return jnp.einsum("ne,neo->no", share, jnp.einsum("ni,eio->neo", x, p["experts"])) @ p["c"]

    return plain(f, 1, 3, router=(3, 2), experts=(2, 3, 2), c=(2, 1))


@model(PRODUCTS, "one expert of two, the largest")
def _():
    def f(p, x):
        chosen = jnp.argmax(x @ p["router"], -1)
        first, second = jax.nn.relu(x @ p["a"]), jax.nn.relu(x @ p["b"])
        return jnp.where((chosen == 0)[:, None], first, second) @ p["c"]

    return plain(f, 3, 3, router=(3, 2), **GLU)


@model(PRODUCTS, "bilinear layer")
def _():
    return plain(lambda p, x: ((x @ p["a"]) * (x @ p["b"])) @ p["c"], None, 3, **GLU)


@model(PRODUCTS, "bilinear layer, one side declared by `as_gate`")
def _():
    return plain(lambda p, x: ((x @ p["a"]) * npk.as_gate(x @ p["b"])) @ p["c"], 1, 3, **GLU)


@model(PRODUCTS, "selective state space (S6) in a scan")
def _():
    def f(p, x):
        step = jax.nn.sigmoid(x @ p["step"])
        new = step * (x @ p["in"])

        def move(state, now):
            keep, add = now
            state = keep * state + add
            return state, state

        _, states = jax.lax.scan(move, jnp.zeros_like(new[:, 0]), ((1 - step).swapaxes(0, 1), new.swapaxes(0, 1)))
        return states.mean(0) @ p["c"]

    return plain(f, 1, TOKENS, WIDTH, step=(WIDTH, WIDTH), **{"in": (WIDTH, WIDTH)}, c=(WIDTH, 1))


# -- maps of constant coefficients ---------------------------------------------------------------------

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


# -- tokens --------------------------------------------------------------------------------------------

WORDS_ = "tokens"


@model(WORDS_, "bag of embeddings")
def _():
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.relu(nn.Dense(2)(nn.Embed(WORDS, WIDTH)(x).mean(1))))

    return linen(Bag(), 1, x=sentences())


@model(WORDS_, "embeddings, positions, attention")
def _():
    def f(p, x):
        h = p["table"][x] + p["positions"]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        out = h + jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return out[:, -1] @ p["c"]

    return plain(f, 1, x=sentences(), table=(WORDS, WIDTH), positions=(TOKENS, WIDTH), **PROJECTIONS)


@model(WORDS_, "class token")
def _():
    def f(p, x):
        first = jnp.broadcast_to(p["cls"], (len(x), 1, WIDTH))
        h = jnp.concatenate([first, x @ p["a"]], 1) + p["positions"]
        q, k, v = (jnp.einsum("npc,chd->nphd", h, p[name]) for name in "qkv")
        out = h + jnp.einsum("nphd,hdc->npc", mixed(jax.nn.softmax(scores(q, k)), v), p["o"])
        return out[:, 0] @ p["c"]

    return plain(f, 1, 2, WIDTH, a=(WIDTH, WIDTH), cls=(WIDTH,), positions=(3, WIDTH), **PROJECTIONS)


@model(WORDS_, "tied embeddings")
def _():
    def f(p, x):
        return jax.nn.relu(p["table"][x].mean(1) @ p["a"]) @ p["table"].T

    return plain(f, 1, x=sentences(), table=(WORDS, WIDTH), a=(WIDTH, WIDTH))


@model(WORDS_, "`GPT`, untied")
def _():
    net = networks.GPT(WORDS, TOKENS, 2, 1, 1, hidden=1, last=True, tied=False)
    return linen(net, 5, x=sentences())


@model(WORDS_, "`GPT`, tied")
def _():
    return linen(networks.GPT(WORDS, TOKENS, 2, 1, 1, hidden=1, last=True), 5, x=sentences())


@model(WORDS_, "`LLaMA`")
def _():
    return linen(networks.LLaMA(WORDS, 4, 1, 2, 1, hidden=1, outputs=1, last=True), 5, x=sentences())


# -- images as tokens ----------------------------------------------------------------------------------

IMAGES = "transformers of images and their kin"


@model(IMAGES, "`ViT`")
def _():
    return linen(networks.ViT((1, 2), 2, 1, 1, hidden=1, outputs=1), 5, 2, 2, 1)


@model(IMAGES, "`ViT`, class token")
def _():
    return linen(networks.ViT((1, 2), 2, 1, 1, hidden=1, outputs=1, pooling="cls"), 5, 2, 2, 1)


@model(IMAGES, "`MLPMixer`")
def _():
    return linen(networks.MLPMixer((1, 2), 2, 1, 1, 1, outputs=1), 5, 2, 2, 1)


@model(IMAGES, "`ConvNeXt`")
def _():
    return linen(networks.ConvNeXt(width=1, depths=(1,), stem=1, window=2, outputs=1), 4, 2, 2, 1)


# -- gated networks ------------------------------------------------------------------------------------

GATED = "gated networks"


def two(make: Model, transform) -> Model:
    params = {"feature": drawn(MLP), "value": jax.tree.map(lambda a: a[::-1], drawn(MLP))}
    return dataclasses.replace(make, f=transform(make.f), params=params)


@model(GATED, "`DGN`")
def _():
    return two(plain(mlp, 2, 3, **MLP), npk.DGN)


@model(GATED, "`DGN`, soft gates")
def _():
    return two(plain(mlp, 2, 3, **MLP), functools.partial(npk.DGN, beta=4.0))


@model(GATED, "`DLGN`")
def _():
    return two(plain(mlp, 2, 3, **MLP), npk.DLGN)


@model(GATED, "`DLGN_SF`")
def _():
    features = [drawn({"kernel": (3, n), "bias": (n,)}) for n in (4, 3)]
    one = two(plain(mlp, 2, 3, **MLP), npk.DLGN_SF)
    return dataclasses.replace(one, params={**one.params, "feature": features})
