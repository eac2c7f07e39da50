"""Bad input: what is said of it."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import npk
from npk.programs import require_supported_jax

PARAMS = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
X = jnp.arange(6.0).reshape(2, 3)


def f(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["c"]


KERNELS = {"path_kernel": npk.path_kernel, "ntk": npk.ntk, "split_ntk": npk.split_ntk}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def test_gates_of_wrong_number_or_shape():
    with pytest.raises(ValueError, match=r"gates must hold 1 arrays \(of shapes \[2, 4\]\), one an activation; got 0"):
        npk.gated(f)(PARAMS, X, ())
    with pytest.raises(ValueError, match=r"gates\[0\] must have shape \[2, 4\], got \[2, 3\]"):
        npk.gated(f)(PARAMS, X, (X,))
    with pytest.raises(ValueError, match=r"gates1\[0\] must have shape \[2, 4\], got \[2, 3\]"):
        npk.path_kernel(f)(PARAMS, X, gates1=(X,))
    with pytest.raises(ValueError, match="given together"):
        npk.path_kernel(f)(PARAMS, X, X, gates1=(jnp.ones((2, 4)),))


@every_kernel
def test_numbers_that_are_not_finite(kernel):
    with pytest.raises(ValueError, match="x1 must be finite; 1 of its 6"):
        kernel(f)(PARAMS, X.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="params/a must be finite; 1 of its 12"):
        kernel(f)({**PARAMS, "a": PARAMS["a"].at[0, 0].set(jnp.inf)}, X)


@every_kernel
def test_empty_batch(kernel):
    with pytest.raises(ValueError, match=r"x1 must be a batch \[N, ...\] of at least one sample, got shape \[0, 3\]"):
        kernel(f)(PARAMS, X[:0])


@every_kernel
def test_samples_of_different_shape(kernel):
    with pytest.raises(ValueError, match=r"agree in all axes but the first, got \[2, 3\] and \[2, 2\]"):
        kernel(f)(PARAMS, X, X[:, :2])


@pytest.mark.standard_dtypes
@every_kernel
def test_integers_as_numbers(kernel):
    with pytest.raises(ValueError, match="must be of a floating dtype, got int32"):
        kernel(f)(PARAMS, X.astype(int))


@every_kernel
def test_dropout(kernel):
    net = nn.Dropout(0.5, deterministic=False)
    noisy = lambda p, x: net.apply({}, f(p, x), rngs={"dropout": jax.random.key(0)})  # noqa: E731
    with pytest.raises(ValueError, match="Turn dropout off"):
        kernel(noisy)(PARAMS, X)


def test_samples_that_see_each_other():
    norm = nn.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), X)
    mixing = lambda p, x: f(p, norm.apply(variables, x, mutable=["batch_stats"])[0])  # noqa: E731
    with pytest.raises(ValueError, match="samples of a batch are not independent"):
        npk.ntk(mixing)(PARAMS, X)


@every_kernel
def test_output_of_another_shape(kernel):
    with pytest.raises(ValueError, match=r"must return one array \[N, K\]"):
        kernel(lambda p, x: f(p, x)[..., None])(PARAMS, X)


def test_operations_outside_the_path_rules_are_all_named_with_their_lines():
    outside = lambda p, x: jnp.sinh(jnp.exp(x @ p["a"])) @ p["c"]  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"`exp` at .*test_errors.py"):
        npk.path_kernel(outside)(PARAMS, X)
    both = lambda p, x: jnp.concatenate([jnp.exp(x @ p["a"]), jnp.cosh(x @ p["b"][:3])], -1).sum(1, keepdims=True)  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match=r"(?s)`exp`.*`cosh`"):
        npk.path_kernel(both)(PARAMS, X)


def test_what_lies_behind_a_refusal_is_told_apart_from_what_does_not():
    """The gate of a value that is refused is not taken for that of the next activation, of another shape."""

    def network(p, x):
        refused = jax.nn.relu(x @ jnp.exp(p["a"]))
        return refused @ p["c"] + jax.nn.relu(x @ p["b"][:3, :2]) @ p["b"][2:, :2]

    with pytest.raises(npk.UnsupportedOperation, match="computed from parameters"):
        npk.path_kernel(network)(PARAMS, X)


def test_a_weight_used_twice_on_a_path():
    twice = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["b"]  # noqa: E731
    for transform in (npk.path_kernel, npk.npf):
        with pytest.raises(npk.UnsupportedOperation, match="parameter `b` is a weight twice"):
            transform(twice)(PARAMS, X)


def test_outputs_with_features_of_their_own():
    with pytest.raises(npk.UnsupportedOperation, match="select one output"):
        npk.path_kernel(lambda p, x: jax.nn.relu(x @ p["a"]))(PARAMS, X)
    npk.path_kernel(lambda p, x: jax.nn.relu(x @ p["a"])[:, :1])(PARAMS, X)


def test_a_temperature_after_a_bias():
    """Taken for a normalisation's scale, which makes the bias a fixed number of each output."""
    p = {**PARAMS, "bias": jnp.ones(PARAMS["c"].shape[-1]), "t": jnp.full((), 2.0)}
    divided = lambda p, x: (f(p, x) + p["bias"][None]) / p["t"]  # noqa: E731
    for transform in (npk.path_kernel, npk.npf):
        with pytest.raises(npk.UnsupportedOperation, match="`div` at .*test_errors.py.*`t` scales .*`bias` then adds"):
            transform(divided)(p, X)
    with pytest.raises(npk.UnsupportedOperation, match=r"computed from parameters \(`t`\).*temperature"):
        npk.path_kernel(lambda p, x: f(p, x) * jnp.exp(p["t"]))(p, X)
    with pytest.raises(npk.UnsupportedOperation, match=r"adds a value computed from parameters \(`bias`\)"):
        npk.path_kernel(lambda p, x: f(p, x) + jnp.exp(p["bias"])[None])(p, X)


def test_samples_in_a_loop():
    one = lambda p, x: f(p, x[None])[0]  # noqa: E731
    loops = {
        "Python's": lambda p, x: jnp.stack([one(p, x[i]) for i in range(x.shape[0])]),
        "a map": lambda p, x: jax.lax.map(lambda s: one(p, s), x),
    }
    for looping in loops.values():
        for transform in (npk.path_kernel, npk.npf):
            with pytest.raises(ValueError, match=r"goes over its samples in a loop.*jax.vmap\(g, \(None, 0\)\)"):
                transform(looping)(PARAMS, X)


def test_what_f_holds_for_one_number_of_samples():
    table = jnp.ones(X.shape)
    for transform in (npk.path_kernel, npk.ntk):
        with pytest.raises(ValueError, match=rf"{len(X)} samples, but not of any other number \(.*shape.*a table of"):
            transform(lambda p, x: f(p, x + table))(PARAMS, X)


def test_values_without_numbers():
    linear = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["c"]  # noqa: E731
    for sizes in ((0, 4, 2), (3, 0, 2), (3, 4, 0)):
        p = {"a": jnp.ones(sizes[:2]), "c": jnp.ones(sizes[1:])}
        for transform in (npk.path_kernel, npk.npf):
            with pytest.raises(ValueError, match="has no numbers, so that no path goes through it"):
                transform(linear)(p, jnp.ones((5, sizes[0])))


def test_counts_beyond_single_precision():
    def deep(p, x):
        for w in p:
            x = jax.nn.relu(x @ w)
        return x[:, :1]

    p = [jnp.ones((64, 64))] * 6
    with pytest.raises(ValueError, match="path counts reach .* enable x64"):
        npk.path_kernel(deep)(p, jnp.ones((2, 64)), normalize=False)
    assert npk.path_kernel(deep)(p, jnp.ones((2, 64))).shape == (2, 2)


def test_counts_are_exact_as_far_as_single_precision_holds_every_integer():
    """4096² + 1 is the first whole number that it does not hold, and would be rounded to 4096²."""
    kernel, p = (
        npk.path_kernel(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]),
        {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 1))},
    )
    assert kernel(p, jnp.array([[4095.0, 90.0]]), normalize=False).tolist() == [[4095**2 + 90**2]]
    with pytest.raises(ValueError, match="path counts reach 1.68e.07"):
        kernel(p, jnp.array([[4096.0, 1.0]]), normalize=False)


def test_an_old_jax_is_refused():

    with pytest.raises(ImportError, match="npk needs jax >= 0.7.0, found jax 0.4.36"):
        require_supported_jax("0.4.36")


def test_the_remedy_for_a_temperature_is_one():
    f = lambda p, x: (jax.nn.relu(x @ p["w"]) @ p["v"] + p["b"]) / p["t"]  # noqa: E731
    p = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "b": jnp.array([[1.0, 2.0]]), "t": jnp.float32(2.0)}
    with pytest.raises(npk.UnsupportedOperation, match=re.escape("fixed=('t',)")):
        npk.path_kernel(f)(p, jnp.ones((5, 3)))
    npk.path_kernel(f, fixed=("t",))(p, jnp.ones((5, 3)))
