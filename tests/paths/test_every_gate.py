"""Every factor of the value stream that depends on x is a gate: transformers, norms and products by their polynomials.

Models are as users write them: of all spellings in the zoo the expected numbers are those of one oracle.
"""

import dataclasses
import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing.numpy_in_place import numpy_in_place
from oracles import polynomials as poly
from oracles.attention import attention
from oracles.pieces import dense, mlp, norm
from oracles.transformers import POSITIONS, WIDTH, ZOO, model, pre_norm, random_transformer
from tolerances import RELATIVE

import npk
from npk import programs

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("x64", "as_users_write")]


@pytest.fixture
def by_numpy(monkeypatch):
    """Nothing is compiled; a few models go through JAX."""
    with numpy_in_place(monkeypatch):
        yield


LEAST = 1e-3  # what cancels to nothing is compared to this
EXAMPLES = int(os.environ.get("NPK_EXAMPLES", "6"))
FIRST = int(os.environ.get("NPK_SEED", "0"))
RANDOM = {f"random {seed}": seed for seed in range(FIRST, FIRST + EXAMPLES)}
FEW = (
    "attention: heads",
    "attention: keys and values repeated",
    "attention: one matrix for all, causal",
    "attention: NNX",
    "attention: between two parts",
    "layer norm",
    "layer norm, Linen",
    "layer norm after a ReLU",
    "layer norm, a bias in front",
    "group norm",
    "SwiGLU",
    "squeeze and excite",
    "highway",
    "pre-norm",
    "post-norm",
    "a class token",
    "padding",
    "learned factors of branches",
)
every_model = pytest.mark.parametrize("name", [*ZOO, *RANDOM])
a_few_models = pytest.mark.parametrize("name", FEW)


@functools.cache
def known(name):
    """A case and its paths; nothing of npk's."""
    one = random_transformer(RANDOM[name]) if name in RANDOM else ZOO[name]
    case = one.drawn()
    return case, case.paths()


def close(ours, theirs, case):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), LEAST)
    tolerance = max(RELATIVE[np.dtype("float64")], case.piece.precision)
    assert error <= 10 * tolerance, f"an error of {error:.3g} of the largest number\n{ours}\n{theirs}"


# -- the oracle itself ---------------------------------------------------------------------------------


@every_model
def test_the_oracle_computes_the_model(name, by_numpy):
    """The program of f, run by NumPy."""
    case, paths = known(name)
    program = programs.trace(case.f, case.params, case.x)
    out = programs.evaluate(program, jax.tree_util.tree_leaves((case.params, case.x)))[0]
    close(case.value().numbers(), out, case)
    close(paths.output(), out[:, 0], case)


HEADS = {1: 2, 2: 1}  # of the blocks


def moment_of_two_blocks(case):
    """DESIGN's recursion for `dense → pre-norm block → pre-norm block → RMS norm → mean → dense`, normalised."""
    p = poly.leaves_of(case.params)
    gates = iter([gate for _, gate in case.value().book.gates])

    def normed(k, leaf, centred=True):
        r = next(gates)[..., 0]  # [N, P]
        share = (np.square(p[f"{leaf}/scale"])).mean() * ((WIDTH - 1) / WIDTH if centred else 1)
        shift = np.square(p[f"{leaf}/shift"]).mean() if centred else 0
        return share * r[:, :, None, None] * r * k + shift

    x = np.asarray(case.x)
    k = np.einsum("npc,mqc->npmq", x, x) / x.shape[-1]
    for block, heads in HEADS.items():
        n = normed(k, f"{block}/0/0")
        a = np.stack([next(gates) for _ in range(heads)])
        k = k + np.einsum("hnpq,nqms,hmts->npmt", a, n, a) / heads
        n = normed(k, f"{block}/1/0")
        g = next(gates).astype(float)
        k = k + n * np.einsum("npc,mqc->npmq", g, g) / g.shape[-1]
    return normed(k, "3", centred=False).mean((1, 3))


@functools.cache
def two_blocks():
    blocks = [
        pre_norm("layer norm", attention(WIDTH, heads, 1, mask="causal"), mlp(WIDTH, 1)) for heads in HEADS.values()
    ]
    return model(dense(1, WIDTH), *blocks, norm(WIDTH, "RMS norm"), shape=(POSITIONS, 1)).drawn()


def test_the_oracle_is_the_recursion_of_two_pre_norm_blocks():
    case = two_blocks()
    close(case.paths().gram(), moment_of_two_blocks(case), case)


def test_centring_between_gates_in_closed_form():
    """Σ over channels of the second moment: (1 - 2/C) Σ k k' g g' + (Σ k k')(Σ g g') / C²."""
    rng = np.random.default_rng(0)
    u, g, k = rng.normal(size=(3, 3)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    book = poly.Book({"w": rng.normal(size=(3, 4)), "v": rng.normal(size=(4, 1))}, [g, k])
    value = poly.input_of(book, u).dense(book.names("w")).gate("given", g).centred().gate("given", k)
    ours = poly.paths_of(value.dense(book.names("v"))).gram(normalize=False)
    kk, gg = k @ k.T, g @ g.T
    both = np.einsum("nc,mc,nc,mc->nm", k, k, g, g)
    np.testing.assert_allclose(ours, u @ u.T * ((1 - 2 / 4) * both + kk * gg / 16), rtol=1e-12)
    book = poly.Book({"v": rng.normal(size=(4, 1))}, [g])
    one = poly.input_of(book, np.ones((3, 4))).gate("given", g).centred().dense(book.names("v"))
    theirs = g @ g.T - np.outer(g.sum(1), g.sum(1)) / 4
    np.testing.assert_allclose(poly.paths_of(one).gram(normalize=False), theirs, rtol=1e-12)


def test_centring_over_positions_too_in_closed_form():
    """Of a group of c channels that are independent: K - (the means over p and over p')/c + (the mean of both)/c."""
    rng = np.random.default_rng(1)
    x, groups, c = rng.normal(size=(3, POSITIONS, 2)), 2, 2
    book = poly.Book({"w": rng.normal(size=(2, 4)), "v": rng.normal(size=(4, 1))})
    value = poly.input_of(book, x).dense(book.names("w")).centred(groups, positions=True).dense(book.names("v"))
    k = np.einsum("npi,mqi->npmq", x, x) / 2
    rows, columns = k.mean(1, keepdims=True), k.mean(3, keepdims=True)
    expected = k - (rows + columns - k.mean((1, 3), keepdims=True)) / c
    np.testing.assert_allclose(poly.paths_of(value.position(1)).gram(), expected[:, 1, :, 1], rtol=1e-12)


# -- npk -----------------------------------------------------------------------------------------------


@every_model
def test_the_kernel_is_that_of_the_polynomials(name, by_numpy):
    case, paths = known(name)
    for normalize in (True, False):
        h = npk.path_kernel(case.f)(case.params, case.x, normalize=normalize)
        close(h, paths.gram(normalize), case)


def weights_of(label, known_names):
    """The weights on a path, of its name; `:` is the output, the first. A variable of NNX is called by its value."""
    found = set()
    for step in label.split(" -> "):
        leaf, index = re.fullmatch(r"(.*)\[(.*)\]", step).groups()
        place = tuple(int(i) for i in index.replace(":", "0").split(","))
        found.add((leaf if leaf in known_names else leaf.removesuffix("/value").removesuffix(".value"), place))
    return frozenset(found)


@a_few_models
def test_features_values_and_names_are_those_of_the_polynomials(name):
    """A path that leads nowhere, a bias of a position that is dropped, need not be listed."""
    case, paths = known(name)
    phi, v = npk.npf(case.f)(case.params, case.x), npk.npv(case.f)(case.params, case.x)
    close(phi @ v, case.value().numbers(), case)
    expected = paths.by_name()
    leaves = {leaf for weights in expected for leaf, _ in weights}
    labels = [weights_of(label, leaves) for label in npk.path_names(case.f)(case.params, case.x)]
    assert len(set(labels)) == len(labels) == phi.shape[1]
    nothing = np.zeros(len(phi))
    close(phi, np.stack([expected.pop(label, nothing) for label in labels], 1), case)
    assert not any(np.any(feature) for feature in expected.values())


@a_few_models
def test_the_model_is_linear_in_its_values_given_its_gates(name, by_numpy):
    case, paths = known(name)
    gates = npk.gates(case.f)(case.params, case.x)
    close(npk.gated(case.f)(case.params, case.x, gates), case.value().numbers(), case)
    other = case.other_weights()
    close(npk.gated(case.f)(other, case.x, gates)[:, 0], paths.output_of(other), case)


GIVEN = ("attention: heads", "attention: one matrix for all", "layer norm after a ReLU", "GEGLU", "pre-norm", "padding")


@pytest.mark.parametrize("name", GIVEN)
def test_gates_of_another_network_and_of_other_samples(name, by_numpy):
    """H of values by one network and gates by another (DGN); and between two batches."""
    case, _ = known(name)
    feature, other = dataclasses.replace(case, params=ZOO[name].drawn(1).params), ZOO[name].drawn(2).x
    kernel = npk.path_kernel(case.f)
    gates = npk.gates(case.f)(feature.params, case.x)
    expected = case.paths(given=[gate for _, gate in feature.value().book.gates])
    close(kernel(case.params, case.x, gates1=gates), expected.gram(), case)
    close(kernel(case.params, case.x, other), case.paths().gram(other=case.paths(x=other)), case)


@pytest.mark.parametrize("name", [f"attention: {n}" for n in ("heads", "softmax by hand", "causal")])
def test_heads_in_another_order_are_the_same_kernel(name):
    case, paths = known(name)
    axes = {"query": 1, "key": 1, "value": 1, "value_bias": 0, "out": 0}
    layer = {leaf: jnp.flip(a, axes[leaf]) if leaf in axes else a for leaf, a in case.params["1"].items()}
    close(npk.path_kernel(case.f)({**case.params, "1": layer}, case.x), paths.gram(), case)


def test_what_a_causal_model_sees_later_changes_nothing():
    case, paths = known("a language model, causal")  # its output is that of position 1
    changed = case.x.at[:, 2].set((case.x[:, 2] + 1) % 3)
    np.testing.assert_allclose(case.paths(x=changed).gram(), paths.gram(), rtol=1e-12)
    close(npk.path_kernel(case.f)(case.params, changed), paths.gram(), case)


def test_theory_8_two_pre_norm_blocks_follow_the_recursion():
    case = two_blocks()
    close(npk.path_kernel(case.f)(case.params, case.x), moment_of_two_blocks(case), case)


def test_weights_that_only_gates_read_are_on_no_path():
    case, _ = known("attention: heads")
    names = npk.path_names(case.f)(case.params, case.x)
    assert not any("query" in name or "key" in name for name in names)


AMBIGUOUS = {
    "two nonlinear sides": lambda p, x: (jax.nn.relu(x @ p["a"]) * jnp.tanh(x @ p["b"])) @ p["c"],
    "two affine sides": lambda p, x: ((x @ p["a"]) * (x @ p["b"])) @ p["c"],
}


@pytest.mark.parametrize("f", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_a_product_without_a_gate_side_is_refused(f):
    rng = np.random.default_rng(0)
    p = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(3, 2)), "c": rng.normal(size=(2, 1))}
    with pytest.raises(npk.UnsupportedOperation):
        npk.path_kernel(f)(jax.tree.map(jnp.asarray, p), jnp.asarray(rng.normal(size=(3, 3))))


def test_a_table_that_is_read_again_at_the_end_is_a_weight_twice():
    def f(p, x):
        return jax.nn.relu(p["table"][x]).mean(1) @ p["table"].T

    p = {"table": jnp.asarray(np.random.default_rng(0).normal(size=(3, WIDTH)))}
    with pytest.raises(npk.UnsupportedOperation):
        npk.path_kernel(f)(p, jnp.asarray(np.arange(POSITIONS)[None]))
