"""The same network in other words: online softmax, recurrences, masks and tokens, with one kernel each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.transformers import POSITIONS, WIDTH

import npk

pytestmark = [pytest.mark.standard_dtypes, pytest.mark.usefixtures("x64", "as_users_write")]


def drawn(**shapes):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def softmax_at_once(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


def softmax_key_by_key(q, k, v):
    """Of each key the values so far are scaled anew, so that no exponential overflows."""

    def step(carry, key_and_value):
        most, total, out = carry
        key, value = key_and_value
        scores = jnp.einsum("npc,nc->np", q, key)
        larger = jnp.maximum(most, scores)
        before, own = jnp.exp(most - larger), jnp.exp(scores - larger)
        out = out * before[..., None] + own[..., None] * value[:, None]
        return (larger, total * before + own, out), None

    begun = jnp.full(q.shape[:2], -jnp.inf), jnp.zeros(q.shape[:2]), jnp.zeros((*q.shape[:2], v.shape[-1]))
    (_, total, out), _ = jax.lax.scan(step, begun, (k.swapaxes(0, 1), v.swapaxes(0, 1)))
    return out / total[..., None]


def test_attention_key_by_key_has_the_kernel_of_attention():
    p = drawn(q=(WIDTH, 2), k=(WIDTH, 2), v=(WIDTH, WIDTH), o=(WIDTH, 1))
    x = drawn(x=(3, POSITIONS, WIDTH))["x"]

    def kernel(attend):
        return npk.path_kernel(lambda p, x: attend(x @ p["q"], x @ p["k"], x @ p["v"]).mean(1) @ p["o"])(p, x)

    np.testing.assert_allclose(kernel(softmax_key_by_key), kernel(softmax_at_once), rtol=1e-10)


def test_a_recurrence_that_begins_with_zeros_is_the_one_without_its_first_step():
    p, x = drawn(z=(WIDTH, 2), n=(WIDTH, 2), o=(2, 1)), drawn(x=(3, POSITIONS, WIDTH))["x"]

    def recurrent(p, x, from_zeros):
        share, new = jax.nn.sigmoid(x @ p["z"]), x @ p["n"]
        state = jnp.zeros((len(x), 2)) if from_zeros else share[:, 0] * new[:, 0]
        for t in range(0 if from_zeros else 1, POSITIONS):
            state = (1 - share[:, t]) * state + share[:, t] * new[:, t]
        return state @ p["o"]

    one, two = (functools.partial(recurrent, from_zeros=zeros) for zeros in (True, False))
    np.testing.assert_allclose(npk.path_kernel(one)(p, x), npk.path_kernel(two)(p, x), rtol=1e-10)
    roles = {q.name: q.role for q in npk.explain(one)(p, x).parameters}
    assert roles == {"z": "feature", "n": "weight", "o": "weight"}


FACTORS = {  # of 1/σ [N, 1] and a parameter [1, 4]: the product is moved before it meets the value
    "turned": lambda h, r, g: (h.T * (r * g).T).T,
    "laid out": lambda h, r, g: (h.reshape(-1, 2, 2) * (r * g).reshape(-1, 2, 2)).reshape(-1, 4),
    "in two parts": lambda h, r, g: jnp.concatenate([h[:, :2] * (r * g)[:, :2], h[:, 2:] * (r * g)[:, 2:]], 1),
    "backwards": lambda h, r, g: h * (r * g[:, ::-1])[:, ::-1],
    "negated": lambda h, r, g: -(h * -(r * g)),
    "repeated": lambda h, r, g: (h[:, None] * jnp.broadcast_to((r * g)[:, None], (len(h), 1, 4)))[:, 0],
}


@pytest.mark.parametrize("write", FACTORS.values(), ids=FACTORS.keys())
def test_a_norms_factor_is_fixed_in_whatever_shape_it_meets_the_value(write):
    p, x = drawn(w=(3, 4), g=(1, 4), o=(4, 1)), drawn(x=(2, 3))["x"]

    def normed(p, x, write):
        h = x @ p["w"]
        return write(h, jax.lax.rsqrt(jnp.square(h).mean(1) + 1e-3)[:, None], p["g"]) @ p["o"]

    expected = npk.path_kernel(functools.partial(normed, write=lambda h, r, g: h * r * g))(p, x)
    f = functools.partial(normed, write=write)
    np.testing.assert_allclose(npk.path_kernel(f)(p, x), expected, rtol=1e-10)
    assert npk.explain(f)(p, x).fixed == ("g",)


TOKENS = np.array([[1, 2, 1, 0], [2, 1, 1, 0], [0, 2, 1, 0]])
ROWS = {  # of a table [3, 3]
    "looked up": lambda table, x: table[x],
    "one hot": lambda table, x: jax.nn.one_hot(x, 3, dtype=table.dtype) @ table,
    "compared": lambda table, x: (x[..., None] == jnp.arange(3)).astype(table.dtype) @ table,
    "chosen": lambda table, x: jnp.where(x[..., None] == jnp.arange(3), 1.0, 0.0) @ table,
    "rows of the identity": lambda table, x: jnp.eye(3)[x] @ table,
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_a_row_that_tokens_choose_has_one_kernel(rows):
    """K = 1{token = token'} of a layer of fan-in one: the share of positions of equal tokens and open gates."""
    p, x = drawn(table=(3, 3), o=(3, 1)), jnp.asarray(TOKENS)
    expected = np.zeros((3, 3))
    table = np.asarray(p["table"])
    for n, m in np.ndindex(3, 3):
        for one, two in np.ndindex(4, 4):
            token, other = int(x[n, one]), int(x[m, two])
            expected[n, m] += (token == other) * (table[token] > 0).mean() / 16
    f = lambda p, x: jax.nn.relu(rows(p["table"], x)).mean(1) @ p["o"]  # noqa: E731
    np.testing.assert_allclose(npk.path_kernel(f)(p, x), expected, rtol=1e-10)


def test_shifted_tokens_are_tokens():
    p, x = drawn(table=(3, 3), o=(3, 1)), jnp.asarray(TOKENS)
    f = lambda p, x: jax.nn.relu(p["table"][x]).mean(1) @ p["o"]  # noqa: E731
    shifted = lambda p, x: f(p, jnp.pad(x, ((0, 0), (1, 0)))[:, :-1])  # noqa: E731
    assert npk.explain(shifted)(p, x).certified
    moved = np.pad(TOKENS, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_allclose(npk.path_kernel(shifted)(p, x), npk.path_kernel(f)(p, jnp.asarray(moved)), rtol=1e-10)


def test_a_token_beyond_a_table_that_is_filled_with_zeros_chooses_no_row():
    p, x = drawn(table=(3, 2), o=(2, 1)), jnp.asarray(TOKENS + 1)  # 3 is beyond
    filled = lambda p, x: p["table"].at[x].get(mode="fill", fill_value=0).sum(1) @ p["o"]  # noqa: E731
    one_hot = lambda p, x: (jax.nn.one_hot(x, 3, dtype=p["o"].dtype) @ p["table"]).sum(1) @ p["o"]  # noqa: E731
    np.testing.assert_allclose(npk.path_kernel(filled)(p, x), npk.path_kernel(one_hot)(p, x), rtol=1e-10)


MASKED = {
    "times": lambda h, mask: h * mask.astype(h.dtype),
    "chosen": lambda h, mask: jnp.where(mask, h, 0),
    "contracted": lambda h, mask: jnp.einsum("npc,np->npc", h, mask[..., 0].astype(h.dtype)),
}


@pytest.mark.parametrize("mask", MASKED.values(), ids=MASKED.keys())
@pytest.mark.parametrize("activation", [jax.nn.relu, lambda h: h], ids=["ReLU", "linear"])
def test_what_a_mask_of_tokens_hides_is_left_out(mask, activation):
    p, x = drawn(table=(3, 2), w=(2, 3), o=(3, 1)), jnp.asarray(TOKENS)
    masked = lambda p, x: mask(activation(p["table"][x] @ p["w"]), (x != 0)[..., None]).sum(1) @ p["o"]  # noqa: E731
    seen = lambda p, x: activation(p["table"][x] @ p["w"]).sum(1) @ p["o"]  # noqa: E731
    short = np.asarray(npk.path_kernel(seen)(p, x[:2, :3]))  # the others see nothing there
    np.testing.assert_allclose(npk.path_kernel(masked)(p, x[:2]), short, rtol=1e-10)


def test_the_last_token_by_the_length_of_the_text():
    p, x = drawn(table=(3, 2), o=(2, 1)), jnp.asarray(TOKENS)

    def of_last(p, x):
        h = jax.nn.relu(p["table"][x])
        return jnp.einsum("np,npc->nc", jax.nn.one_hot((x != 0).sum(1) - 1, 4, dtype=h.dtype), h) @ p["o"]

    expected = npk.path_kernel(lambda p, x: jax.nn.relu(p["table"][x])[:, 2] @ p["o"])(p, x[:2])
    np.testing.assert_allclose(npk.path_kernel(of_last)(p, x[:2]), expected, rtol=1e-10)


def test_a_mark_that_multiplies_nothing_is_told_by_its_own_line():
    p, x = drawn(w=(3, 2), o=(2, 1)), drawn(x=(2, 3))["x"]
    f = lambda p, x: npk.as_gate(x @ p["w"]) @ p["o"]  # noqa: E731
    reading = npk.explain(f)(p, x)
    assert not reading.certified
    assert not any("declaring.py" in refusal.what for refusal in (*reading.nonlinear, *reading.refused))
    assert "declared to be a gate" in reading.nonlinear[0].what
