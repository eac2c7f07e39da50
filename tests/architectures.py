"""The registry of architectures: one description each, from which plain JAX functions and the oracle are made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from oracles import language as lang
from oracles.language import (
    FLATTEN,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalAvgPool,
    MaxPool,
    Network,
    Relu,
    Residual,
    Scale,
    Subsample,
    Transpose,
)

IMAGE = (4, 4, 2)


POOLED = (GlobalAvgPool(), Dense(2))


def _conv(*layers, head=POOLED, image=IMAGE):
    return Network(image, (*layers, *head))


REGISTRY = {
    "mlp": Network((3,), (Dense(4, bias=False), Relu(), Dense(3, bias=False), Relu(), Dense(2, bias=False))),
    "mlp with biases": Network((3,), (Dense(4), Relu(), Dense(3), Relu(), Dense(2))),
    "one output": Network((3,), (Dense(4), Relu(), Dense(3), Relu(), Dense(1))),
    "one input": Network((1,), (Dense(3), Relu(), Dense(2), Relu(), Dense(2))),
    "leaky": Network((3,), (Dense(4), Relu(0.25), Dense(3), Relu(0.25), Dense(2))),
    "same": _conv(Conv(3), Relu(), Conv(2), Relu()),
    "valid": _conv(Conv(3, padding="VALID"), Relu(), Conv(2, (2, 2), padding="VALID"), Relu()),
    "circular": _conv(Conv(3, padding="CIRCULAR"), Relu(), Conv(2, padding="CIRCULAR"), Relu()),
    "stride": _conv(Conv(3, stride=2), Relu(), Conv(2, (2, 2)), Relu()),
    "dilation": _conv(Conv(2, dilation=2), Relu(), Conv(2, dilation=2), Relu()),
    "1x1": _conv(Conv(3, (1, 1)), Relu(), Conv(2, (1, 1)), Relu()),
    "groups": _conv(Conv(4, groups=2), Relu(), Conv(4, (2, 2), groups=2), Relu()),
    "depthwise": _conv(Conv(2, groups=2), Relu(), Conv(3, (1, 1)), Relu()),
    "one dimension": _conv(Conv(3, (3,)), Relu(), Conv(2, (3,), stride=2), Relu(), image=(6, 2)),
    "flatten head": _conv(Conv(2, (2, 2)), Relu(), Conv(2, (2, 2), stride=2), Relu(), head=(FLATTEN, Dense(2))),
    "average pooling": _conv(Conv(2), Relu(), AvgPool((2, 2), 2), Conv(2, (2, 2)), Relu()),
    "average pooling, padded": _conv(Conv(2, (2, 2)), Relu(), AvgPool((3, 3), 2, "SAME"), Conv(2, (2, 2)), Relu()),
    "max pooling": _conv(Conv(2), Relu(), MaxPool((2, 2), 2), Conv(2, (2, 2)), Relu()),
    "max pooling, overlapping": _conv(Conv(2, (2, 2)), MaxPool((3, 3), 2, "SAME"), Relu(), Conv(2, (2, 2)), Relu()),
    "residual": Network((3,), (Dense(4), Residual((Relu(), Dense(3), Relu(), Dense(4))), Relu(), Dense(2))),
    "residual, post-activation": _conv(
        Conv(2, (2, 2)), Relu(), Residual((Conv(2, (2, 2)), Relu(), Conv(2, (2, 2)))), Relu()
    ),
    "residual, pre-activation": _conv(Conv(2, (2, 2)), Residual((Relu(), Conv(2, (2, 2)))), Relu()),
    "residual, projection": _conv(
        Conv(2, (2, 2)), Relu(), Residual((Conv(3, (2, 2), stride=2),), (Conv(3, (1, 1), stride=2),)), Relu()
    ),
    "residual, padded shortcut": _conv(
        Conv(2, (2, 2)), Relu(), Residual((Conv(3, (2, 2), stride=2),), (Subsample(2, 1),)), Relu()
    ),
    "concatenation": _conv(
        Conv(2, (2, 2)), Concat(((), (Relu(), Conv(1, (2, 2))))), Concat(((), (Relu(), Conv(1, (1, 1))))), Relu()
    ),
    "batch norm": _conv(Conv(2, (2, 2)), BatchNorm(), Relu(), Conv(2, (2, 2)), BatchNorm(), Relu()),
    "residual batch norm": Network(
        (3,), (Dense(3), BatchNorm(), Residual((Relu(), Dense(3), BatchNorm())), Relu(), Dense(2))
    ),
    "learned scale": Network((3,), (Dense(4), Relu(), Scale(), Dense(3), Relu(), Dense(2))),
    "channels and positions exchanged": Network(
        (3, 2), (Dense(3), Relu(), Transpose((1, 0)), Dense(2), Relu(), FLATTEN, Dense(2))
    ),
    "channel shuffle": _conv(
        Conv(4, (2, 2), groups=2),
        Relu(),
        lang.Reshape((4, 4, 2, 2)),
        Transpose((0, 1, 3, 2)),
        lang.Reshape((4, 4, 4)),
        Conv(2, (2, 2), groups=2),
        Relu(),
    ),
}


def parameters(network: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small integers for every leaf; batch norm's variances are squares, so that every number is exact."""
    params: dict[str, np.ndarray] = {}
    names = lang.Names()

    def integers(*shape):
        return rng.integers(-3, 4, shape)

    def visit(layers, shape):
        for layer in layers:
            if isinstance(layer, Residual):
                out = visit(layer.branch, shape)
                visit(layer.shortcut, shape)
                shape = out
            elif isinstance(layer, Concat):
                outs = [visit(branch, shape) for branch in layer.branches]
                shape = (*outs[0][:-1], sum(o[-1] for o in outs))
            else:
                owns = isinstance(layer, (Dense, Conv, Scale, BatchNorm))
                shape = step(layer, names(layer) if owns else None, shape)
        return shape

    def step(layer, name, shape):
        if isinstance(layer, Dense):
            params[f"{name}/kernel"] = integers(shape[-1], layer.out)
        elif isinstance(layer, Conv):
            params[f"{name}/kernel"] = integers(*layer.kernel, shape[-1] // layer.groups, layer.out)
        elif isinstance(layer, Scale):
            params[f"{name}/scale"] = integers(shape[-1])
        elif isinstance(layer, BatchNorm):
            params.update({f"{name}/{part}": integers(shape[-1]) for part in ("scale", "bias", "mean")})
            params[f"{name}/var"] = rng.choice([1, 4], shape[-1])
        if getattr(layer, "bias", False):
            params[f"{name}/bias"] = integers(layer.out)
        return jax.eval_shape(lambda x: _apply(layer, name, params, x), jnp.zeros((1, *shape))).shape[1:]

    visit(network.layers, network.input)
    return params


def _padding(layer, window, shape):
    if layer.padding == "CIRCULAR":
        sizes = [(k - 1) * getattr(layer, "dilation", 1) for k in window]
        return [(s // 2, s - s // 2) for s in sizes]
    return layer.padding


def _apply(layer, name, params, x, relu=jax.nn.relu):
    if isinstance(layer, Dense):
        x = x @ params[f"{name}/kernel"].astype(x.dtype)
    elif isinstance(layer, Conv):
        padding = _padding(layer, layer.kernel, x.shape)
        if layer.padding == "CIRCULAR":
            x, padding = jnp.pad(x, [(0, 0), *padding, (0, 0)], mode="wrap"), "VALID"
        space = "HW"[: len(layer.kernel)]
        x = jax.lax.conv_general_dilated(
            x,
            params[f"{name}/kernel"].astype(x.dtype),
            [layer.stride] * len(layer.kernel),
            padding,
            rhs_dilation=[layer.dilation] * len(layer.kernel),
            feature_group_count=layer.groups,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        )
    elif isinstance(layer, Scale):
        x = x * jnp.broadcast_to(params[f"{name}/scale"].astype(x.dtype), x.shape)
    elif isinstance(layer, BatchNorm):
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale, bias, mean, var = (
            params[f"{name}/{k}"].astype(x.dtype).reshape(shape) for k in ("scale", "bias", "mean", "var")
        )
        x = (x - mean) * (scale * jax.lax.rsqrt(var + layer.eps)) + bias
    elif isinstance(layer, Relu):
        x = jax.nn.leaky_relu(x, layer.slope) if layer.slope else relu(x)
    elif isinstance(layer, (AvgPool, MaxPool)):
        window, strides = (1, *layer.window, 1), (1, *[layer.stride] * len(layer.window), 1)
        if isinstance(layer, MaxPool):
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, layer.padding)
        else:
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, layer.padding) / float(
                np.prod(layer.window)
            )
    elif isinstance(layer, GlobalAvgPool):
        x = x.mean(tuple(range(1, x.ndim - 1)))
    elif isinstance(layer, lang.Reshape):
        x = x.reshape(x.shape[0], *layer.shape)
    elif isinstance(layer, Transpose):
        x = x.transpose(0, *(1 + a for a in layer.order))
    elif isinstance(layer, Subsample):
        x = x[(slice(None), *[slice(None, None, layer.step)] * (x.ndim - 2))]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, layer.extra)])
    if getattr(layer, "bias", False):
        x = x + params[f"{name}/bias"].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return x


# One architecture is one function, so that what is compiled of it serves every test of a process; of networks drawn
# at random only the last are kept.
@functools.lru_cache(maxsize=256)
def function(network: Network, relu=jax.nn.relu):
    """The network as an ordinary function of parameters and a batch."""

    def run(layers, params, x, names):
        for layer in layers:
            if isinstance(layer, Residual):
                branch = run(layer.branch, params, x, names)
                x = branch + run(layer.shortcut, params, x, names)
            elif isinstance(layer, Concat):
                x = jnp.concatenate([run(branch, params, x, names) for branch in layer.branches], -1)
            else:
                owns = isinstance(layer, (Dense, Conv, Scale, BatchNorm))
                x = _apply(layer, names(layer) if owns else None, params, x, relu)
        return x

    return lambda params, x: run(network.layers, params, x, lang.Names())


def afresh(f):
    """f as another function, of which nothing is compiled yet: for settings that are read while f is compiled."""
    return lambda params, x: f(params, x)


@functools.lru_cache(maxsize=256)
def _numbers(network: Network, seed: int, n: int):
    rng = np.random.default_rng(seed)
    params, x = parameters(network, rng), rng.integers(-3, 4, (n, *network.input))
    for array in (*params.values(), x):
        array.flags.writeable = False
    return params, x


def case(network: Network, seed: int = 0, n: int = 3):
    """(f, integer parameters, integer inputs [n, ...]); the arrays are for reading."""
    params, x = _numbers(network, seed, n)
    return function(network), dict(params), x


# ------------------------------------------------------------------------------------ random networks


@st.composite
def dense_networks(draw) -> Network:
    """Fully connected networks, some with skip connections."""
    width = st.integers(1, 3)
    layers: list = [Dense(draw(width), draw(st.booleans())), Relu()]
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            inner = layers[-2].out if isinstance(layers[-2], Dense) else None
            if inner:
                layers += [Residual((Dense(draw(width)), Relu(), Dense(inner, draw(st.booleans()))))]
                layers += [Relu(draw(st.sampled_from([0.0, 0.5])))]
                break
        layers += [Dense(draw(width), draw(st.booleans())), Relu()]
    return Network((draw(st.integers(1, 3)),), (*layers, Dense(draw(st.integers(1, 2)), draw(st.booleans()))))


@st.composite
def convolution_networks(draw) -> Network:
    """Two convolutions with pooling or a skip connection between, and either head."""
    side, channels = draw(st.integers(2, 4)), draw(st.sampled_from([1, 2]))

    def conv(out, stride=True):
        kernel = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2)]))
        return Conv(
            out,
            kernel,
            draw(st.integers(1, 2)) if stride else 1,
            draw(st.sampled_from(["SAME", "CIRCULAR"])) if stride else "SAME",
            draw(st.integers(1, 2)),
            1,
            draw(st.booleans()),
        )

    middle = draw(
        st.sampled_from(
            [(), (AvgPool((2, 2), 1, "SAME"),), (MaxPool((2, 2), 2, "SAME"),), (BatchNorm(),), (Transpose((1, 0, 2)),)]
        )
    )
    second = conv(draw(st.integers(1, 2)), stride=False)
    block = draw(st.sampled_from([(second,), (Residual((conv(2, stride=False),)),), (Concat(((), (second,))),)]))
    head = draw(st.sampled_from([(GlobalAvgPool(),), (FLATTEN,)]))
    layers = (conv(2), *middle, Relu(), *block, Relu(), *head, Dense(draw(st.integers(1, 2))))
    return Network((side, side, channels), layers)
