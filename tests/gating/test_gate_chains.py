"""Whatever lies between a gate and the value it meets: f is its gated form, and that is affine in x given the gates.

Chains of moves, numbers, parameters and sums are drawn at random, and meet a value as a factor, as a divisor or as a
matrix over positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk

POSITIONS = 4

# Each makes of a factor z, [n, positions, positions], another of the same shape; none is zero anywhere.
LINKS = {
    "times a number": lambda z, p: 1.5 * z,
    "by a number": lambda z, p: z / 0.7,
    "a number by it": lambda z, p: 2.0 / z,
    "one by it": lambda z, p: 1 / z,
    "negative": lambda z, p: -z,
    "one and it": lambda z, p: 1 + z * z,
    "three without it": lambda z, p: 3 - 0.1 * z,
    "times a parameter": lambda z, p: z * p["g"][None, None],
    "by a parameter": lambda z, p: z / p["g"][None, None],
    "a parameter by it": lambda z, p: p["g"][None, None] / z,
    "a parameter and it": lambda z, p: p["g"][None, None] + 0.1 * z,
    "turned": lambda z, p: z.swapaxes(1, 2),
    "reversed": lambda z, p: z[:, ::-1],
    "reshaped": lambda z, p: z.reshape(-1, POSITIONS * POSITIONS).reshape(z.shape),
    "beside a constant": lambda z, p: jnp.concatenate([z[:, :2], jnp.full((len(z), 2, POSITIONS), 2.0)], 1),
    "beside itself": lambda z, p: jnp.concatenate([z[:, 2:], z[:, :2]], 1),
    "beside a parameter": lambda z, p: jnp.stack([z, jnp.broadcast_to(p["g"][None, None], z.shape)], -1).prod(-1),
    "taken": lambda z, p: jnp.take(z, jnp.array([1, 0, 3, 3]), axis=2, mode="clip"),
    "padded": lambda z, p: jnp.pad(z[:, 1:], ((0, 0), (1, 0), (0, 0)), constant_values=2.0),
    "of one column": lambda z, p: jnp.broadcast_to(z[..., :1], z.shape),
    "of a scale": lambda z, p: z * jax.lax.rsqrt((z * z).mean(-1, keepdims=True) + 0.1),
    "cast": lambda z, p: z.astype(jnp.float32).astype(z.dtype),
}
SOURCES = {
    "sigmoid": lambda u: 0.5 + jax.nn.sigmoid(u),
    "softmax": lambda u: 0.2 + jax.nn.softmax(u),
    "scale": lambda u: jnp.broadcast_to(jax.lax.rsqrt((u * u).mean(-1, keepdims=True) + 0.5), u.shape),
    "σ": lambda u: jnp.broadcast_to(jnp.sqrt((u * u).mean(-1, keepdims=True) + 0.5), u.shape),
    "exp": lambda u: jnp.exp(0.3 * u),
}
MEETING = {
    "factor": lambda v, z: v * z,
    "factor in front": lambda v, z: z * v,
    "divisor": lambda v, z: v / z,
    "matrix": lambda v, z: jnp.einsum("npq,nqc->npc", z, v),
    "matrix behind": lambda v, z: jnp.einsum("npc,ncq->npq", v, z),
}


def drawn(seed):
    rng = np.random.default_rng(seed)
    source, meeting = rng.choice(list(SOURCES)), rng.choice(list(MEETING))
    links = rng.choice(list(LINKS), size=rng.integers(0, 5), replace=False)
    p = {name: jnp.asarray(rng.normal(size=(3, POSITIONS))) for name in ("u", "v")}
    p |= {"g": jnp.asarray(rng.uniform(0.5, 2, POSITIONS)), "c": jnp.asarray(rng.normal(size=(POSITIONS, 1)))}

    def f(p, x):
        z = SOURCES[source](x @ p["u"])
        for link in links:
            z = LINKS[link](z, p)
        return MEETING[meeting](x @ p["v"], z).mean(1) @ p["c"]

    return f, p, jnp.asarray(rng.normal(size=(2, POSITIONS, 3))), (source, *links, meeting)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def check(f, p, x, said, tolerance):
    gates = npk.gates(f)(p, x)
    under = npk.gated(f)
    here, step = under(p, x, gates), jnp.asarray(np.random.default_rng(0).normal(size=x.shape))
    size = float(jnp.abs(here).max())
    assert float(jnp.abs(here - f(p, x)).max()) <= tolerance * size, said
    bend = (under(p, x + step, gates) - here) + (under(p, x - step, gates) - here)
    assert float(jnp.abs(bend).max()) <= tolerance * size, said


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("first", range(0, 40, 8))
def test_f_is_its_gated_form_and_that_is_affine(first):
    for seed in range(first, first + 8):
        f, p, x, said = drawn(seed)
        check(f, p, x, said, 1e-5 if "cast" in said else 1e-11)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("link", LINKS)
def test_each_link_by_itself(link):
    """Beside a number, for every way to meet a value."""
    p = drawn(0)[1]
    x = drawn(0)[2]
    for meeting, meet in MEETING.items():
        source = SOURCES["σ" if meeting == "divisor" else "sigmoid"]
        f = lambda p, x, meet=meet, source=source: (  # noqa: E731
            meet(x @ p["v"], 0.5 * LINKS[link](source(x @ p["u"]), p)).mean(1) @ p["c"]
        )
        check(f, p, x, (link, meeting), 1e-5 if link == "cast" else 1e-11)


def test_a_condition_that_leaves_infinity_is_refused():
    """Nothing times -∞ is no number: a maximum of what x masks has no gate yet."""
    _, p, x, _ = drawn(0)
    f = lambda p, x: jnp.where(x @ p["u"] > 0, x @ p["v"], -jnp.inf).max(1) @ p["c"]  # noqa: E731
    for transform in (npk.gates, npk.path_kernel):
        with pytest.raises(npk.UnsupportedOperation, match="`(select_n|gt)`"):
            transform(f)(p, x)


def test_of_several_gates_in_one_product_those_that_are_wanted_alone_are_cut():
    """A scale times a mask stays whole in f where one of them is to stay."""

    def f(p, x):
        u = x @ p["u"]
        scale, other = jax.lax.rsqrt((u * u).mean(-1, keepdims=True) + 0.1), jax.nn.sigmoid(u)
        return ((x @ p["v"]) * (scale * other)).mean(1) @ p["c"]

    _, p, x, _ = drawn(0)
    assert [g.kind for g in npk.explain(f)(p, x).gates] == ["scale", "product"]
    for kinds, count in ((("scale", "product"), 2), (("scale",), 0), (("pattern",), 0)):
        gates = npk.gates(f, kinds=kinds)(p, x)
        assert len(gates) == count
        np.testing.assert_allclose(npk.gated(f, kinds=kinds)(p, x, gates), f(p, x), rtol=1e-12)
