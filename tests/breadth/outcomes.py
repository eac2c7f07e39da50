"""What every function of npk says of a model: exact, by something that knows nothing of it, or why it is refused."""

import functools
import linecache
import pathlib
import re
import traceback
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from breadth.models import Model

import npk
import npk.infinite

LISTED = 500_000  # paths, at the most, that are written out
DRAWS = 1000
KEY = jax.random.key(5)
ERRORS = 5.0  # standard errors
EXACT, OFFERED = "exact", "offered"
HERE = pathlib.Path(__file__).parents[2]


class Checks:
    """The columns of the table, of one model: each is True where the number was checked, False where only offered.

    Args:
        model: what is checked.
        compiles: whether what has to be compiled is, too; else it is traced.
    """

    def __init__(self, model: Model, compiles: bool):
        self.f, self.params, self.x, self.model, self.compiles = model.f, model.params, model.x, model, compiles

    # -- what is known of f without npk ----------------------------------------------------------------

    @functools.cached_property
    def value(self):
        return np.asarray(jax.jit(self.f)(self.params, self.x))

    @functools.cached_property
    def trained(self):
        """The parameters apart from statistics, and how they are put back."""
        flat, tree = jax.tree_util.tree_flatten_with_path(self.params)
        kept = [i for i, (path, _) in enumerate(flat) if not _is_statistic(jax.tree_util.keystr(path))]
        leaves = [leaf for _, leaf in flat]

        def put(some):
            every = list(leaves)
            for i, leaf in zip(kept, some, strict=True):
                every[i] = leaf
            return jax.tree_util.tree_unflatten(tree, every)

        return [leaves[i] for i in kept], put

    @functools.cached_property
    def differentiable(self):
        """Whether JAX has a derivative of f in reverse mode."""
        try:
            jax.eval_shape(jax.jacrev(self.f), self.params, self.x)
        except ValueError:
            return False
        return True

    def jacobian(self, f):
        """The derivative by every parameter that is trained [N, K, parameters]."""
        leaves, put = self.trained
        found = jax.jit(jax.jacrev(lambda some, x: f(put(some), x)))(leaves, self.x)
        return np.concatenate([np.asarray(j).reshape(*self.value.shape, -1) for j in found], -1)

    @functools.cached_property
    def whole(self):
        return self.jacobian(self.f)

    @functools.cached_property
    def under_gates(self):
        """The derivative with the gates held."""
        return self.jacobian(lambda p, x: self.gated_f(p, x, self.own_gates))

    @functools.cached_property
    def own_gates(self):
        return npk.gates(self.f)(self.params, self.x)

    @functools.cached_property
    def gated_f(self):
        return npk.gated(self.f)

    @functools.cached_property
    def elsewhere(self):
        """Other inputs or, of tokens, another table; and what lies in the middle."""
        rng = np.random.default_rng(3)
        if jnp.issubdtype(self.x.dtype, jnp.floating):
            x = self.x + rng.normal(size=self.x.shape)
            return (self.params, x), (self.params, (x + self.x) / 2)
        flat, tree = jax.tree_util.tree_flatten_with_path(self.params)
        names = [jax.tree_util.keystr(path).lower() for path, _ in flat]
        number = next(i for part in ("position", "'a'", "embed", "table") for i, n in enumerate(names) if part in n)
        leaves = [leaf for _, leaf in flat]
        there = leaves[number] + rng.normal(size=leaves[number].shape)
        both = [[*leaves[:number], leaf, *leaves[number + 1 :]] for leaf in (there, (there + leaves[number]) / 2)]
        return tuple((jax.tree_util.tree_unflatten(tree, some), self.x) for some in both)

    def close(self, ours, theirs, factor: float = 1.0):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
        assert np.isfinite(ours).all()
        error = np.abs(ours - theirs).max(initial=0)
        limit = factor * self.model.precision * max(np.abs(theirs).max(initial=0), 1e-3)
        assert error <= limit, f"an error of {error:.3g}, more than {limit:.3g}\n{ours}\n{theirs}"

    def likely(self, sketch, kernel):
        errors = np.asarray(sketch.standard_error())
        off = np.abs(np.asarray(sketch.gram()) - np.asarray(kernel))
        assert (off <= ERRORS * errors + 1e-9 * np.abs(kernel).max()).all(), f"{off}\nof standard errors {errors}"

    def traced(self, function, **options):
        jax.eval_shape(lambda p, x: jax.tree.leaves(function(p, x, **options)), self.params, self.x)
        return False

    # -- columns ---------------------------------------------------------------------------------------

    def gates(self):
        """As many as the model is known to have, and with them f again."""
        assert len(self.own_gates) == self.model.gates, f"{len(self.own_gates)} gates, not {self.model.gates}"
        assert all(np.isfinite(np.asarray(gate)).all() for gate in self.own_gates)
        self.close(self.gated_f(self.params, self.x, self.own_gates), self.value)
        return True

    def gated(self):
        """Given its gates f is affine in x; of tokens, in the table they are looked up in."""
        if not self.model.affine:
            return True  # f again, as `gates` has found
        there, middle = (self.gated_f(*at, self.own_gates) for at in self.elsewhere)
        here = self.gated_f(self.params, self.x, self.own_gates)
        self.close(middle, (np.asarray(here) + np.asarray(there)) / 2, 10)
        return True

    def linear_map(self):
        """M x + c = f(x), and elsewhere it is gated(f)."""
        if not self.compiles:
            jax.eval_shape(lambda p, x: npk.linear_map(self.f)(p, x).value, self.params, self.x)
            return False
        found = npk.linear_map(self.f)(self.params, self.x)
        self.close(found @ self.x + found.offset, self.value)
        (params, x), _ = self.elsewhere
        self.close(found @ x + found.offset, self.gated_f(params, x, self.own_gates), 10)
        return True

    @functools.cached_property
    def features(self):
        return np.asarray(npk.npf(self.f)(self.params, self.x))

    def npf(self):
        """⟨φ, v⟩ = f."""
        if npk.count_paths(self.f)(self.params, self.x) > 4_194_304:
            npk.npf(self.f)(self.params, self.x)  # which says so
        if not self.listable:
            return self.traced(npk.npf(self.f))
        self.close(self.features @ np.asarray(npk.npv(self.f)(self.params, self.x)), self.value)
        return True

    @functools.cached_property
    def listable(self):
        return npk.count_paths(self.f)(self.params, self.x) <= LISTED

    @functools.cached_property
    def kernel(self):
        return np.asarray(npk.path_kernel(self.f)(self.params, self.x))

    def path_kernel(self):
        """⟨φ, φ'⟩ where φ was listed, else the mean over random signs for weights."""
        counts = npk.path_kernel(self.f)(self.params, self.x, normalize=False)
        self.close(counts, self.features @ self.features.T if self.listable else self.by_signs(counts), 10)
        return True

    def by_signs(self, kernel):
        """`kernel`, within the error of E[f f'] over signs for the weights, gates and norms held."""
        flat, tree = jax.tree_util.tree_flatten_with_path(self.params)
        held = ["norm" in jax.tree_util.keystr(path).lower() for path, _ in flat]

        def draw(key):
            keys = jax.random.split(key, len(flat))
            signs = [
                leaf if keep else jax.random.rademacher(k, leaf.shape, leaf.dtype)
                for k, keep, (_, leaf) in zip(keys, held, flat, strict=True)
            ]
            return self.gated_f(jax.tree_util.tree_unflatten(tree, signs), self.x, self.own_gates)[:, 0]

        out = np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(KEY, DRAWS)))
        products = out[:, :, None] * out[:, None]
        error = products.std(0) / np.sqrt(DRAWS)
        assert (np.abs(products.mean(0) - kernel) <= ERRORS * error).all()
        return kernel

    def log_path_kernel(self):
        """sign · e^log = H."""
        if not self.compiles:
            return self.traced(npk.log_path_kernel(self.f))
        sign, log = npk.log_path_kernel(self.f)(self.params, self.x)
        self.close(np.asarray(sign) * np.exp(np.asarray(log)), self.kernel, 10)
        return True

    def sketch(self):
        """Of mean H."""
        if not self.compiles:
            return self.traced(npk.sketch(self.f), features=2, key=KEY)
        found = npk.sketch(self.f)(self.params, self.x, features=512 * self.value.shape[1], key=KEY)
        self.likely(found, self.kernel)
        return True

    def ntk(self):
        """J Jᵀ."""
        if not self.compiles:
            return self.traced(npk.ntk(self.f))
        self.close(npk.ntk(self.f)(self.params, self.x), _gram(self.whole, self.whole), 10)
        return True

    def split_ntk(self):
        """The parts of K, by the Jacobian of f under its gates, which are held."""
        if not self.compiles:
            return self.traced(npk.split_ntk(self.f))
        found = npk.split_ntk(self.f)(self.params, self.x)
        v, f = self.under_gates, self.whole - self.under_gates
        scale = np.abs(_gram(self.whole, self.whole)).max()
        parts = {"value": _gram(v, v), "feature": _gram(f, f), "cross": _gram(v, f) + _gram(f, v)}
        for name, part in parts.items():
            error = np.abs(np.asarray(getattr(found, name)) - part).max()
            assert error <= 10 * self.model.precision * scale, f"{name}: an error of {error:.3g}"
        self.close(found.total, _gram(self.whole, self.whole), 10)
        return True

    def sketch_ntk(self):
        """Of mean K^V."""
        if not self.compiles:
            return self.traced(npk.sketch_ntk(self.f), features=2, key=KEY)
        found = npk.sketch_ntk(self.f)(self.params, self.x, features=512 * self.value.shape[1], key=KEY)
        self.likely(found, _gram(self.under_gates, self.under_gates))
        return True

    def infinite_nngp(self):
        """A covariance, that of tests/infinite; of weights alone the arc-cosine recursion."""
        return self.limit(npk.infinite.nngp(self.f), 0)

    def infinite_ntk(self):
        """As `infinite_nngp`."""
        return self.limit(npk.infinite.ntk(self.f), 1)

    def limit(self, kernel, which):
        if not self.compiles:
            return self.traced(kernel)
        found = np.asarray(kernel(self.params, self.x))
        self.close(found, found.T)
        assert np.linalg.eigvalsh(found).min() >= -1e-6 * np.abs(found).max()
        if isinstance(self.params, dict) and list(self.params) == ["a", "b", "c"] and self.model.arc_cosine:
            self.close(found, arc_cosine(np.asarray(self.x), 2)[which], 10)
        return True


def arc_cosine(x, hidden):
    """NNGP and NTK of ReLU layers of weights of He's variance, whose last layer has it too."""
    k = 2 * x @ x.T / x.shape[1]
    theta = k
    for _ in range(hidden):
        size = np.sqrt(np.outer(np.diag(k), np.diag(k)))
        angle = np.arccos(np.clip(k / size, -1, 1))
        slope = (np.pi - angle) / np.pi
        k = size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
        theta = k + slope * theta
    return k, theta


def _gram(a, b):
    return np.einsum("nkp,mkp->nm", a, b)


def _is_statistic(name: str) -> bool:
    return "batch_stats" in name or ".mean" in name or ".var" in name or "['mean']" in name or "['var']" in name


COLUMNS = {
    "gates": "gates",
    "gated": "gated",
    "linear_map": "linear_map",
    "npf": "npf, npv",
    "path_kernel": "path_kernel",
    "log_path_kernel": "log_path_kernel",
    "sketch": "sketch",
    "ntk": "ntk",
    "split_ntk": "split_ntk",
    "sketch_ntk": "sketch_ntk",
    "infinite_nngp": "infinite.nngp",
    "infinite_ntk": "infinite.ntk",
}


NO_DERIVATIVE = "not offered: JAX has no derivative of this f in reverse mode."


def row(model: Model, compiles: bool, columns: Sequence[str] = tuple(COLUMNS)) -> dict[str, str]:
    """Of functions `EXACT`, `OFFERED` where nothing was computed, or the refusal; anything else is a failure."""
    checks, found = Checks(model, compiles), {}
    for column in columns:
        try:
            checked = getattr(checks, column)()
        except ValueError as error:
            whose = not isinstance(error, npk.UnsupportedOperation) and "ntk" in column and not checks.differentiable
            found[column] = NO_DERIVATIVE if whose else refusal(column, error)
        except AssertionError as error:
            raise AssertionError(f"{column}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{column} crashes: {''.join(traceback.format_exception(error)[-6:])}") from error
        else:
            found[column] = EXACT if checked else OFFERED
    return found


# -- messages ------------------------------------------------------------------------------------------

_PLACE = re.compile(r"(?P<file>/[^\s:]+\.py):(?P<line>\d+)(?::\d+)?(?: \((?P<function>[^()]*)\))?")
_TO_DO = """apply call choose close compute convert declare divide give hold leave let make mark multiply must name pass
put replace untie use write"""
REMEDY = re.compile(rf"\b({'|'.join(_TO_DO.split())})\b|=")


def refusal(column: str, error: ValueError) -> str:
    """The message, checked: it names what was met, where that is, and what to do. Lines are said by what they hold."""
    message = str(error)
    if isinstance(error, npk.UnsupportedOperation):
        assert re.search(r"`\S[^`]*`|the layer at|the output of f", message), f"{column} names no primitive: {message}"
        assert _PLACE.search(message), f"{column} names no line: {message}"
    assert REMEDY.search(message.lower()), f"{column} says no remedy: {message}"
    kind = "refused" if isinstance(error, npk.UnsupportedOperation) else "not offered"
    return f"{kind}: {_PLACE.sub(_said, message)}"


def _said(found: re.Match[str]) -> str:
    path = pathlib.Path(found["file"])
    if HERE in path.parents and ".venv" not in path.parts:
        return f"“{linecache.getline(str(path), int(found['line'])).strip()}”"
    return "/".join(path.parts[path.parts.index("site-packages") + 1 :]) if "site-packages" in path.parts else path.name
