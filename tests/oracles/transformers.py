"""Small models of every gate, in JAX and as polynomials: `ZOO[name].drawn()` and `random_transformer(seed)`.

for name in ZOO:
    case = ZOO[name].drawn()                    # .f, .params, .x, and the oracle
    case.paths()                                # φ, v, H of output 0, under the model's own gates
    case.paths(x=other, params=others)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oracles import framework_pieces as fw
from oracles import pieces as pc
from oracles import polynomials as poly
from oracles.attention import attention, by_head, by_sample, cross, fused
from oracles.pieces import Piece, chain, dense, mlp, norm, position, product, relu, residual

SAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """f(params, x) of JAX in float64 and the same as polynomials."""

    f: Callable[[Any, Any], Any]
    params: Any
    x: Any
    piece: Piece

    def value(self, x=None, params=None, given=None) -> poly.Value:
        x = np.asarray(self.x if x is None else x)
        book = poly.Book(self.params if params is None else params, given)
        start = poly.input_of(book, x) if x.dtype.kind == "f" else None
        return self.piece.paths(book, start, x)

    def paths(self, x=None, params=None, given=None, output: int = 0) -> poly.Paths:
        return poly.paths_of(self.value(x, params, given), output)

    def other_weights(self, seed: int = 1):
        """The parameters with other numbers for all that is on a path: gates and fixed numbers of `params` hold."""
        rng = np.random.default_rng(seed)
        weights = self.value().book.variance
        leaves = {name: np.array(leaf) for name, leaf in poly.leaves_of(self.params).items()}
        for leaf, place in weights:
            leaves[leaf][place] = rng.normal()
        flat, structure = jax.tree.flatten(self.params)
        numbers = [jnp.asarray(leaf) for leaf in leaves.values()]
        assert len(numbers) == len(flat)
        return jax.tree.unflatten(structure, numbers)


@dataclasses.dataclass(frozen=True)
class Model:
    """A piece on samples of a shape; integers below `tokens` where that is given."""

    piece: Piece
    shape: tuple[int, ...]
    tokens: int | None = None

    def drawn(self, seed: int = 0) -> Case:
        rng = np.random.default_rng([seed, 1])
        params = _drawn(self.piece.shapes, rng)
        x = rng.normal(size=(SAMPLES, *self.shape))
        if self.tokens is not None:
            x = rng.integers(0, self.tokens, x.shape).astype(np.int32)
            x[:, 0] = rng.integers(1, self.tokens, SAMPLES)  # something to attend to
        return Case(self.function, params, jnp.asarray(x), self.piece)

    @functools.cached_property
    def function(self):
        run = self.piece.run
        return lambda params, x: run(params, x, x)


def _drawn(shapes, rng: np.random.Generator):
    def draw(path, leaf):
        shape = leaf if isinstance(leaf, tuple) else leaf.shape
        name = poly.leaf_name(path).rsplit("/")[-1]
        if name in ("scale", "weight"):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape))
        return jnp.asarray(rng.normal(size=shape) * (0.5 if "bias" in name or name == "shift" else 1.0))

    return jax.tree_util.tree_map_with_path(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


# -- the zoo -------------------------------------------------------------------------------------------

WIDTH, POSITIONS = 3, 3
last, first = position(-1), position(0)


def model(*pieces: Piece, shape=(POSITIONS, WIDTH), head=1, width=WIDTH, pool=pc.mean, **options) -> Model:
    """Pieces, then the mean over positions and a layer of weights."""
    pool = () if pool is None else (pool,)
    return Model(chain(*pieces, *pool, dense(width, head)), shape, **options)


def _attending() -> dict[str, Model]:
    """One layer of attention after a layer of weights, in every spelling."""
    embed = dense(WIDTH, WIDTH)
    whole = functools.partial(attention, WIDTH, 2, 2)
    layers = {
        "one head": attention(WIDTH, 1, 2),
        "heads": whole(bias=True),
        "softmax by hand": whole("by hand"),
        "softmax without a maximum": whole("without a maximum"),
        "softmax in logarithms": whole("in logarithms"),
        "exp of log_softmax": whole("log_softmax"),
        "values before the division": whole("divided last"),
        "matrices": whole("a matrix"),
        "jax.nn.dot_product_attention": whole("jax.nn", bias=True),
        "jax.nn, causal": whole("jax.nn", mask="causal"),
        "jax.nn, grouped": whole("jax.nn", groups=1),
        "causal": whole(mask="causal"),
        "causal by adding": whole(mask="causal", hide=-1e9),
        "causal by -inf": whole(mask="causal", hide=-math.inf),
        "keys and values repeated": whole(groups=1),
        "keys and values broadcast": whole("broadcast", groups=1),
        "rotary": whole(rotary=True),
        "normed queries and keys": whole(normed=True),
        "one matrix for all": fused(WIDTH, 2, 1),
        "one matrix for all, causal": fused(WIDTH, 2, 1, causal=True),
        "a loop over heads": by_head(WIDTH, 2, 1),
        "vmap over samples and heads": by_sample(WIDTH, 2, 1),
        "Linen": fw.linen_attention(WIDTH, 2, 1, POSITIONS),
        "Linen, causal": fw.linen_attention(WIDTH, 2, 1, POSITIONS, causal=True),
        "NNX": fw.nnx_attention(WIDTH, 2, 1),
    }
    found = {f"attention: {name}": model(embed, layer, pool=last) for name, layer in layers.items()}
    found["attention: of the input"] = model(whole())
    found["attention: after a ReLU"] = model(embed, relu, whole())
    found["attention: twice"] = model(attention(WIDTH, 2, 1), attention(WIDTH, 2, 1, mask="causal"))
    found["attention: between two parts"] = model(dense(WIDTH, WIDTH), cross(WIDTH, 2, 2, 1), shape=(4, WIDTH))
    return found


def _normed() -> dict[str, Model]:
    """A norm between two layers of weights, and one with gates in front of it."""
    norms = {spelling: norm(WIDTH, spelling) for spelling in pc.NORMS}
    norms |= {
        "layer norm, Linen": fw.linen_layer_norm(WIDTH),
        "layer norm, Linen, slow variance": fw.linen_layer_norm(WIDTH, use_fast_variance=False),
        "layer norm, NNX": fw.nnx_layer_norm(WIDTH),
        "layer norm, Equinox": fw.equinox_norm(WIDTH),
        "RMS norm, Linen": fw.linen_rms_norm(WIDTH),
        "RMS norm, Equinox": fw.equinox_norm(WIDTH, "RMSNorm"),
        "instance norm": pc.group_norm(WIDTH, WIDTH),
        "a group": pc.group_norm(WIDTH, 1),
    }
    found = {name: model(dense(WIDTH, WIDTH), n, relu) for name, n in norms.items()}
    plain = norm(WIDTH, "layer norm")
    found["layer norm after a ReLU"] = model(dense(WIDTH, WIDTH), relu, plain, dense(WIDTH, WIDTH), relu)
    found["layer norm of the input"] = model(plain, dense(WIDTH, WIDTH), relu)
    found["layer norm at the end"] = model(dense(WIDTH, WIDTH), relu, plain, pool=last)
    found["layer norm, twice"] = model(dense(WIDTH, WIDTH), plain, relu, norm(WIDTH, "layer norm"))
    found["layer norm of a pooled value"] = model(dense(WIDTH, WIDTH), pc.mean, plain, pool=None)
    found["RMS norm after a ReLU"] = model(dense(WIDTH, WIDTH), relu, norm(WIDTH, "RMS norm"))
    found["layer norm, a bias in front"] = model(dense(WIDTH, WIDTH, bias=True), plain, relu)
    found["layer norm, cumulative means"] = model(dense(WIDTH, WIDTH), pc.cumulative(), plain)
    image = {"shape": (2, 2, 2), "width": 4}
    found["group norm"] = model(dense(2, 4), pc.group_norm(4, 2), relu, **image)
    found["group norm after a ReLU"] = model(dense(2, 4), relu, pc.group_norm(4, 2), **image)
    found["group norm, Linen"] = model(dense(2, 4), fw.linen_group_norm(4, 2), relu, **image)
    found["instance norm, Linen"] = model(dense(2, 4), fw.linen_instance_norm(4), relu, **image)
    found["convolutions and group norm"] = model(
        pc.convolution(2, 4), pc.group_norm(4, 2), relu, pc.convolution(4, 2), shape=(3, 2), width=2
    )
    return found


def _multiplied() -> dict[str, Model]:
    """Products with a nonlinear side."""
    found = {kind: model(dense(WIDTH, WIDTH), pc.glu(WIDTH, 2, kind), shape=(WIDTH,), pool=None) for kind in pc.SIDES}
    found["SwiGLU, value first"] = model(pc.glu(WIDTH, 3, "SwiGLU", order="value first"))
    found["SwiGLU, one matrix"] = model(pc.glu(WIDTH, 2, "SwiGLU", order="one matrix"), relu)
    found["GEGLU with biases"] = model(pc.glu(WIDTH, 2, "GEGLU", bias=True))
    found["a product of the input"] = Model(chain(product(WIDTH, 2, "GLU"), dense(2, 1)), (WIDTH,))
    found["squeeze and excite"] = model(dense(2, 3), relu, pc.squeeze_excite(3, 2), shape=(2, 2, 2), width=3)
    found["squeeze and excite, residual"] = model(
        dense(2, 3), residual(dense(3, 3), pc.squeeze_excite(3, 2)), relu, shape=(2, 2, 2), width=3
    )
    found["highway"] = model(pc.highway(WIDTH), pc.highway(WIDTH), relu, shape=(WIDTH,), pool=None)
    return found


def pre_norm(kind: str, mixing: Piece, feed: Piece) -> Piece:
    return chain(residual(norm(WIDTH, kind), mixing), residual(norm(WIDTH, kind), feed))


def post_norm(mixing: Piece, feed: Piece) -> Piece:
    return chain(residual(mixing), norm(WIDTH, "layer norm"), residual(feed), norm(WIDTH, "layer norm, factor first"))


def _blocks() -> dict[str, Model]:
    """Whole transformers."""
    narrow = attention(WIDTH, 1, 1, mask="causal")
    plain = {"tokens": 3, "shape": (POSITIONS,)}
    return {
        "pre-norm": model(
            pre_norm("layer norm", attention(WIDTH, 2, 1), mlp(WIDTH, 2)), norm(WIDTH, "layer norm"), head=2
        ),
        "pre-norm with biases": model(
            dense(WIDTH, WIDTH, bias=True),
            pre_norm("layer norm", fused(WIDTH, 2, 1, causal=True), mlp(WIDTH, 1, bias=True)),
            pool=last,
        ),
        "two pre-norm blocks": model(
            pre_norm("layer norm", narrow, mlp(WIDTH, 1)), pre_norm("layer norm", narrow, mlp(WIDTH, 1))
        ),
        "two blocks of RMS norm, rotary positions and SwiGLU": model(
            pc.tokens(3, WIDTH),
            *[
                pre_norm("RMS norm", attention(WIDTH, 1, 2, mask="causal", rotary=True), pc.glu(WIDTH, 1, "SwiGLU"))
                for _ in range(2)
            ],
            norm(WIDTH, "RMS norm"),
            **plain,
            pool=last,
        ),
        "post-norm": model(post_norm(attention(WIDTH, 2, 1), mlp(WIDTH, 2))),
        "two post-norm blocks": model(*[post_norm(narrow, mlp(WIDTH, 1)) for _ in range(2)], pool=first),
        "tokens": model(pc.tokens(3, WIDTH), **plain),
        "tokens, one hot": model(pc.tokens(3, WIDTH, "one hot"), relu, **plain),
        "tokens, taken": model(pc.tokens(3, WIDTH, "take"), dense(WIDTH, WIDTH), relu, **plain),
        "tokens and positions": model(
            pc.tokens(3, WIDTH), pc.positional(POSITIONS, WIDTH), attention(WIDTH, 2, 1), **plain
        ),
        "a class token": model(
            dense(2, WIDTH, bias=True),
            pc.class_token(WIDTH),
            pc.positional(POSITIONS, WIDTH),
            residual(norm(WIDTH, "layer norm"), attention(WIDTH, 2, 1)),
            norm(WIDTH, "layer norm, factor first"),
            shape=(2, 2),
            pool=first,
        ),
        "padding": model(
            pc.tokens(3, WIDTH),
            residual(norm(WIDTH, "layer norm"), attention(WIDTH, 2, 1, mask="tokens", hide=-math.inf)),
            pool=pc.mean_of_tokens(),
            **plain,
        ),
        "padding, jax.nn": model(pc.tokens(3, WIDTH), attention(WIDTH, 2, 1, "jax.nn", mask="tokens"), **plain),
        "a language model, causal": model(
            pc.tokens(3, WIDTH),
            pc.positional(POSITIONS, WIDTH),
            pre_norm("layer norm", attention(WIDTH, 1, 2, mask="causal"), mlp(WIDTH, 1)),
            norm(WIDTH, "layer norm"),
            pool=position(1),
            head=3,
            **plain,
        ),
        "learned factors of branches": model(
            residual(norm(WIDTH, "RMS norm"), attention(WIDTH, 2, 1), pc.layer_scale(WIDTH)),
            residual(mlp(WIDTH, 2), pc.layer_scale(WIDTH)),
        ),
    }


ZOO: dict[str, Model] = {**_attending(), **_normed(), **_multiplied(), **_blocks()}


# -- at random -----------------------------------------------------------------------------------------


def random_transformer(seed: int) -> Model:
    """Up to four sublayers, with or without norms and residuals, of few enough paths to be written out."""
    rng = np.random.default_rng([seed, 7])

    def one(*choices):
        return choices[int(rng.integers(len(choices)))]

    def sublayer() -> tuple[Piece, int]:
        """A piece from width to width, and how many more paths there are for each before."""
        kind = one("attention", "attention", "mlp", "glu")
        if kind == "attention":
            heads, size = one((1, 1), (1, 2), (2, 1))
            spelling = one(
                "softmax", "by hand", "without a maximum", "in logarithms", "divided last", "a matrix", "jax.nn"
            )
            mask = one(None, "causal", *(("tokens",) if of_tokens else ()))
            groups = one(1, heads)
            piece = attention(
                WIDTH, heads, size, spelling, mask, groups, bool(rng.integers(2)), rotary=size == 2 and one(True, False)
            )
            return piece, WIDTH * heads * size
        hidden = one(1, 2)
        if kind == "mlp":
            return mlp(WIDTH, hidden, bool(rng.integers(2))), WIDTH * hidden
        order = one("gate first", "value first", "one matrix")
        return pc.glu(WIDTH, hidden, one("SwiGLU", "GEGLU", "ReGLU", "GLU"), order=order), WIDTH * hidden

    of_tokens = bool(rng.integers(2))
    start = [pc.tokens(3, WIDTH)] if of_tokens else one([dense(WIDTH, WIDTH, bool(rng.integers(2)))], [])
    if one(True, False):
        start.append(pc.positional(POSITIONS, WIDTH))
    pieces, count = [], 4.0 * WIDTH
    for _ in range(int(rng.integers(1, 5))):
        piece, more = sublayer()
        norms = [name for name in pc.NORMS if name != "length"]
        frame = one("pre", "pre", "post", "residual", "bare")
        mixes = frame in ("pre", "post")
        if count * (WIDTH if mixes else 1) * (more + 1) > 3000:
            break
        count *= (WIDTH if mixes else 1) * (more + 1)
        n = norm(WIDTH, one(*norms)) if mixes else None
        pieces += {
            "pre": lambda n=n, piece=piece: [residual(n, piece)],
            "post": lambda n=n, piece=piece: [residual(piece), n],
            "residual": lambda piece=piece: [residual(piece)],
            "bare": lambda piece=piece: [piece],
        }[frame]()
        if one(True, False, False):
            pieces.append(relu)
    end = [norm(WIDTH, "layer norm")] if one(True, False) else []
    pool = one(pc.mean, first, last, *((pc.mean_of_tokens(),) if of_tokens else ()))
    options = {"shape": (POSITIONS,), "tokens": 3} if of_tokens else {}
    return model(*start, *pieces, *end, pool=pool, head=int(rng.integers(1, 3)), **options)
