"""NumPy in place of JAX where npk computes with numbers, so that no new shape has to be compiled.

Tracing stays JAX's. What is bound, and what the algebra of terms computes, is NumPy's; where a value is being traced,
and for a primitive that is not written here, JAX answers.
"""

import contextlib
import importlib
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import npk
from npk.programs import Equation, is_traced

MODULES = """programs.activations programs.finding programs.gatings gating.running gating.gate_functions gating.values
path_kernels.kernel path_kernels.moments path_kernels.network paths.coordinates paths.features
paths.rules.moves""".split()


def _sums(a, axis=None, **kwargs):
    return np.sum(a, axis=axis, **kwargs)


def _window(values, size, strides, padding, spread, dilation, fill):
    """[*outputs, window]: what each output of a window reads, row-major."""
    values = pad(values, fill, [(low, high, s - 1) for (low, high), s in zip(padding, spread, strict=True)])
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    counts = [(n - r) // s + 1 for n, r, s in zip(values.shape, reach, strides, strict=True)]
    out = np.empty((*counts, int(np.prod(size))), values.dtype)
    for number, offset in enumerate(itertools.product(*map(range, size))):
        cut = tuple(
            slice(o * d, o * d + (c - 1) * s + 1, s)
            for o, d, c, s in zip(offset, dilation, counts, strides, strict=True)
        )
        out[..., number] = values[cut]
    return out


def pad(values, fill, config):
    values = np.asarray(values)
    shape = [max(0, low + high + (n - 1) * (i + 1) + 1) for n, (low, high, i) in zip(values.shape, config, strict=True)]
    grown = [max(0, low) + max(0, high) + (n - 1) * (i + 1) + 1 for n, (low, high, i) in zip(values.shape, config)]
    out = np.full(grown, fill, values.dtype)
    out[
        tuple(
            slice(max(0, low), max(0, low) + (n - 1) * (i + 1) + 1, i + 1)
            for n, (low, high, i) in zip(values.shape, config)
        )
    ] = values
    return out[tuple(slice(max(0, -low), max(0, -low) + s) for s, (low, _, _) in zip(shape, config, strict=True))]


def _reduce_window_sum(a, p):
    spread = p.get("base_dilation") or (1,) * a.ndim
    return _window(a, p["window_dimensions"], p["window_strides"], p["padding"], spread, p["window_dilation"], 0).sum(
        -1
    )


def _reduce_window_max(a, p):
    spread = p.get("base_dilation") or (1,) * a.ndim
    rows = _window(a, p["window_dimensions"], p["window_strides"], p["padding"], spread, p["window_dilation"], -np.inf)
    return rows.max(-1)


def _dot_general(a, b, p):
    (ca, cb), (ba, bb) = p["dimension_numbers"]
    names_a, names_b = list(range(a.ndim)), list(range(100, 100 + b.ndim))
    for i, j in (*zip(ca, cb, strict=True), *zip(ba, bb, strict=True)):
        names_b[j] = names_a[i]
    free = [n for i, n in enumerate(names_a) if i not in (*ca, *ba)]
    free += [n for j, n in enumerate(names_b) if j not in (*cb, *bb)]
    out = [names_a[i] for i in ba] + free
    number = {n: k for k, n in enumerate(dict.fromkeys((*names_a, *names_b)))}
    return np.einsum(a, [number[n] for n in names_a], b, [number[n] for n in names_b], [number[n] for n in out])


def _convolution(a, b, p):
    numbers = p["dimension_numbers"]
    groups = p["feature_group_count"]
    a = np.transpose(a, numbers.lhs_spec)
    b = np.transpose(b, numbers.rhs_spec)
    rank = a.ndim - 2
    rows = _window(
        a,
        (1, 1, *b.shape[2:]),
        (1, 1, *p["window_strides"]),
        ((0, 0), (0, 0), *p["padding"]),
        (1, 1, *p["lhs_dilation"]),
        (1, 1, *p["rhs_dilation"]),
        0,
    )
    n, c, *space, k = rows.shape
    rows = rows.reshape(n, groups, c // groups, *space, k)
    b = b.reshape(groups, b.shape[0] // groups, b.shape[1], k)
    letters = "xyz"[:rank]
    out = np.einsum(f"ngc{letters}k,gock->ngo{letters}", rows, b).reshape(n, -1, *space)
    return np.transpose(out, np.argsort(numbers.out_spec))


def _gather(a, indices, p):
    numbers, sizes = p["dimension_numbers"], p["slice_sizes"]
    where = [d for d in range(a.ndim) if d not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)]
    lookup = indices.shape[:-1]
    fill = p.get("fill_value")
    rows = []
    for place in np.ndindex(*lookup):
        start = np.zeros(a.ndim, int)
        start[list(numbers.start_index_map)] = indices[place]
        for d, i in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
            start[d] = place[i]
        last = np.array(a.shape) - sizes
        if "FILL" in str(p["mode"]).upper() and ((start < 0) | (start > last)).any():
            rows.append(np.full([sizes[d] for d in where], np.nan if fill is None else fill))
            continue
        start = np.clip(start, 0, last)
        cut = a[tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))]
        rows.append(cut.reshape([sizes[d] for d in where]))
    out = np.asarray(np.stack(rows) if rows else np.zeros((0, *(sizes[d] for d in where))), a.dtype)
    out = out.reshape(*lookup, *(sizes[d] for d in where))
    rank = out.ndim
    offsets = list(numbers.offset_dims)
    rest = [d for d in range(rank) if d not in offsets]
    return np.moveaxis(out, range(rank), [*rest, *offsets])


def _broadcast_in_dim(a, p):
    shape = p["shape"]
    laid = np.reshape(
        a,
        [
            a.shape[p["broadcast_dimensions"].index(d)] if d in p["broadcast_dimensions"] else 1
            for d in range(len(shape))
        ],
    )
    return np.broadcast_to(laid, shape)


def _dynamic_slice(a, *rest, p):
    start = [int(np.clip(s, 0, n - k)) for s, n, k in zip(rest, a.shape, p["slice_sizes"], strict=True)]
    return a[tuple(slice(s, s + k) for s, k in zip(start, p["slice_sizes"], strict=True))]


def _iota(p):
    shape = p["shape"]
    line = np.arange(shape[p["dimension"]], dtype=p["dtype"])
    return np.broadcast_to(line.reshape([-1 if d == p["dimension"] else 1 for d in range(len(shape))]), shape)


def _split(a, p):
    return np.split(a, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


_UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt,
    "cbrt": np.cbrt, "square": np.square, "erf": special.erf, "erfc": special.erfc, "logistic": special.expit,
    "not": np.logical_not, "stop_gradient": np.asarray, "copy": np.asarray, "rsqrt": lambda a: 1 / np.sqrt(a),
    "is_finite": np.isfinite,
}  # fmt: skip
_BINARY = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "min": np.minimum, "pow": np.power, "gt": np.greater, "ge": np.greater_equal, "lt": np.less,
    "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip
_OTHERS = {
    "integer_pow": lambda a, p: a ** float(p["y"]),
    "select_n": lambda which, *cases, p: np.select([which == i for i in range(len(cases))], cases),
    "clamp": lambda low, a, high, p: np.clip(a, low, high),
    "convert_element_type": lambda a, p: a.astype(p["new_dtype"]),
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": lambda a, p: a.reshape(p["new_sizes"]),
    "squeeze": lambda a, p: np.squeeze(a, p["dimensions"]),
    "expand_dims": lambda a, p: np.expand_dims(a, p["dimensions"]),
    "transpose": lambda a, p: np.transpose(a, p["permutation"]),
    "slice": lambda a, p: a[tuple(map(slice, p["start_indices"], p["limit_indices"], p["strides"] or (1,) * a.ndim))],
    "rev": lambda a, p: np.flip(a, p["dimensions"]),
    "pad": lambda a, fill, p: pad(a, fill, p["padding_config"]),
    "concatenate": lambda *parts, p: np.concatenate(parts, int(p["dimension"])),
    "reduce_sum": lambda a, p: a.sum(tuple(p["axes"])),
    "reduce_max": lambda a, p: a.max(tuple(p["axes"])),
    "reduce_window_sum": _reduce_window_sum,
    "reduce_window_max": _reduce_window_max,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "iota": lambda p: _iota(p),
    "split": _split,
    "stack": lambda *parts, p: np.stack(parts, p["axis"]),
    "unstack": lambda a, p: [np.take(a, i, p["axis"]) for i in range(a.shape[p["axis"]])],
    "tile": lambda a, p: np.tile(a, p["reps"]),
    "cumsum": lambda a, p: (
        np.flip(np.cumsum(np.flip(a, p["axis"]), p["axis"]), p["axis"]) if p["reverse"] else np.cumsum(a, p["axis"])
    ),
}
_JAX_BIND = Equation.bind


def bind(equation, *values):
    """An equation on numbers."""
    name = equation.primitive.name
    if any(map(is_traced, values)):
        return _JAX_BIND(equation, *values)
    if name not in _UNARY and name not in _BINARY and name not in _OTHERS:
        out = _JAX_BIND(equation, *values)
        return out if any(map(is_traced, out)) else [np.asarray(v) for v in out]
    values = [np.asarray(v) for v in values]
    if name in _UNARY:
        out = _UNARY[name](*values)
    elif name in _BINARY:
        out = _BINARY[name](*values)
    else:
        out = _OTHERS[name](*values, p=equation.params)
    results = list(out) if equation.primitive.multiple_results else [out]
    return [np.asarray(r, v.dtype) for r, v in zip(results, equation.outputs, strict=True)]


def _einsum(spec, *operands, precision=None, preferred_element_type=None):
    return np.einsum(spec, *operands, optimize=len(operands) > 2)


def _where(condition, a, b):
    return np.where(condition, a, b).astype(np.result_type(a))


def _reduce_window(values, fill, function, size, strides, padding, spread, dilation):
    assert function is jax.lax.add
    return _window(values, size, strides, padding, spread, dilation, fill).sum(-1)


def _one_hot(labels, number, dtype):
    return (labels[..., None] == np.arange(number)).astype(dtype)


class _Namespace:
    """A module whose functions are NumPy's for numbers and the module's own for what is being traced."""

    def __init__(self, module, functions):
        self.module, self.functions = module, functions

    def __getattr__(self, name):
        of_jax = getattr(self.module, name)
        of_numpy = self.functions(name)
        if of_numpy is None:
            return of_jax

        def function(*args, **kwargs):
            if any(map(is_traced, jax.tree_util.tree_leaves((args, kwargs)))):
                return of_jax(*args, **kwargs)
            return of_numpy(*args, **kwargs)

        return function


_NUMPY = {"einsum": _einsum, "where": _where, "sum": _sums}
_PLAIN = """argmax asarray broadcast_to concatenate expand_dims max moveaxis multiply ones ones_like reshape square
stack take transpose zeros zeros_like array abs""".split()
_JNP = _Namespace(jnp, lambda name: _NUMPY.get(name) or (getattr(np, name) if name in _PLAIN else None))
_LAX = _Namespace(
    jax.lax,
    {
        "pad": pad,
        "reduce_window": _reduce_window,
        "slice": lambda a, start, stop, strides: a[tuple(map(slice, start, stop, strides))],
        "slice_in_dim": lambda a, start, stop, axis: a[(slice(None),) * axis + (slice(start, stop),)],
    }.get,
)


class _Jax:
    lax = _LAX
    nn = _Namespace(jax.nn, {"one_hot": _one_hot}.get)

    def __getattr__(self, name):
        return getattr(jax, name)


@contextlib.contextmanager
def numpy_in_place(monkeypatch):
    """Within it, npk's algebra of paths computes by NumPy."""
    with monkeypatch.context() as patch:
        for name in MODULES:
            module = importlib.import_module(f"{npk.__name__}.{name}")
            patch.setattr(module, "jnp", _JNP, raising=False)
        for name in ("programs.activations", "path_kernels.moments"):
            patch.setattr(sys.modules[f"{npk.__name__}.{name}"], "jax", _Jax())
        patch.setattr(Equation, "bind", bind)
        yield
