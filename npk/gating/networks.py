"""Deep gated networks: one network makes the gates, another of any such architecture is linear given them.

Nothing here defines an architecture. A deep gated network is `gated(f)(Θ^V, x, gates(f)(Θ^F, x))`; in a deep
linearly gated network the gates come from `linear(f)`, or from one linear map of the input a layer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from npk.gating.declaring import at_lines
from npk.gating.gate_functions import NoLinearForm, hard_gate, permuted, soft_gate
from npk.gating.running import (
    Function,
    activation_program,
    activations,
    gate_shapes,
    programs_of,
    result_of,
    run_with_gates,
)
from npk.gating.transforms import gated, linear
from npk.programs import (
    Program,
    Wanted,
    check_key,
    floats_of,
    of_floats,
    remembered,
    transformation,
    wanted,
    working_dtype,
)

Gates = tuple[Any, ...]


def _gates_from(
    network: Function, own: bool, beta: float | None, epsilon: float, has_aux: bool, wants: Wanted
) -> Callable[..., Any]:
    """(params, x) → (gates, aux) of a feature network.

    Hard gates are its own, or 1{q > 0}; soft gates replace those of activations.
    """

    def found(params: PyTree, x: Any) -> tuple[Gates, Any]:
        program = remembered(programs_of, network, has_aux, wants)(params["feature"], x)
        outputs, q, gates = run_with_gates(program, jax.tree_util.tree_leaves((params["feature"], x)))
        aux = result_of(program, outputs, True)[1] if has_aux else None
        own_gates = gates if own else [hard_gate(v) for v in q]
        kinds = [e.activation for e in activations(program)]
        if beta is None:
            return tuple(own_gates), aux
        made = zip(q, own_gates, kinds, strict=True)
        return tuple(g if a.alone or a.kind == "pool" else soft_gate(v, beta, epsilon) for v, g, a in made), aux

    return found


def _composed(
    f: Function,
    makes: Callable[..., tuple[Gates, Any]],
    constant_input: bool,
    permute: Any,
    has_aux: bool,
    wants: Wanted,
) -> Function:
    def network(params: PyTree, x: Any) -> Any:
        if not isinstance(params, dict) or set(params) != {"feature", "value"}:
            raise ValueError('params must be {"feature": Θ^F, "value": Θ^V}.')
        found, feature_aux = makes(params, x)
        if permute is not None:
            found = permuted(found, permute)
        start = of_floats(jnp.ones_like, x) if constant_input else x
        out = gated(f, has_aux=has_aux, allow=wants.allow, kinds=wants.kinds)(params["value"], start, found)
        return (out[0], {"feature": feature_aux, "value": out[1]}) if has_aux else out

    return network


@transformation()
def DGN(  # noqa: N802 (the papers' name)
    f: Function,
    *,
    feature: Function | None = None,
    beta: float | None = None,
    epsilon: float = 0.1,
    constant_input: bool = False,
    permute: Sequence[int] | None = None,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Function:
    """Transform f into a deep gated network: gates of one set of parameters, values of another.

    Hard gates are those of the feature network, of all kinds, 1{q > 0} for ReLU. Soft gates are `soft_gate` of its
    pre-activations, the feature network keeping its own activations between its layers. `path_kernel`,
    `npf` and `npv` of the result are of the value network under these gates, `split_ntk` parts it into K^V
    of Θ^V and K^F of Θ^F; there is no cross term.

    Args:
        f: the value network (params, x), x: [N, ...] → [N, K]; its activations are replaced by the gates.
        feature: the feature network, of any architecture with gates of the same shapes; None for f.
        beta: steepness of soft gates; None for hard gates.
        epsilon: as of `soft_gate`.
        constant_input: the value network gets all ones instead of x, so that x acts through the gates alone.
        permute: layer l of the value network gets the gates of layer permute[l].
        has_aux: f and feature return (logits, aux), as batch norm's training mode does; the result returns
            (logits, {"feature": aux, "value": aux}).
        allow: as of `gates`, for both networks; kinds that are not wanted stay in both.
        kinds: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → [N, K], params = {"feature": Θ^F, "value": Θ^V}.

    Raises:
        ValueError: params is not such a dictionary; gates do not match the value network; permute does not
            fit (see `permuted`).
        UnsupportedOperation: as `gates`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w) @ jnp.ones((2, 1))
        >>> p = {"feature": jnp.array([[1.0, -1.0]]), "value": jnp.array([[3.0, 5.0]])}
        >>> npk.DGN(f)(p, jnp.array([[2.0], [-2.0]])).tolist()
        [[6.0], [-10.0]]

    Source: Lakshminarayanan & Singh 2020, section 3 (DGN; DL, FR and FL are ways to train it).
    """
    order = None if permute is None else tuple(permute)
    return remembered(
        _deep,
        at_lines(f, gate_at),
        at_lines(feature or f, gate_at),
        False,
        beta,
        epsilon,
        constant_input,
        order,
        has_aux,
        wanted(allow, kinds),
    )


@transformation()
def DLGN(  # noqa: N802
    f: Function,
    *,
    feature: Function | None = None,
    beta: float | None = None,
    epsilon: float = 0.1,
    constant_input: bool = False,
    permute: Sequence[int] | None = None,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Function:
    """Transform f into a deep linearly gated network: the gates come from the deep linear network of f.

    Args:
        f: the value network (params, x), x: [N, ...] → [N, K], without max-pooling.
        feature: the network whose linear form makes the gates; None for f.
        beta: steepness of soft gates, as it is trained; None for hard gates.
        epsilon: as of `soft_gate`.
        constant_input: as of `DGN`.
        permute: as of `DGN`.
        has_aux: as of `DGN`.
        allow: as of `DGN`.
        kinds: as of `DGN`.
        gate_at: as of `DGN`.

    Returns:
        A function (params, x) → [N, K], params = {"feature": Θ^F, "value": Θ^V}.

    Raises:
        ValueError: as `DGN`.
        UnsupportedOperation: as `linear`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(jax.nn.relu(x @ w) @ w) @ w
        >>> p = {"feature": jnp.array([[-1.0]]), "value": jnp.array([[2.0]])}
        >>> npk.DLGN(f)(p, jnp.array([[1.0], [-1.0]])).tolist()  # gates 1{-x > 0}, 1{x > 0}
        [[0.0], [-0.0]]

    Source: Lakshminarayanan & Singh 2021, section 3 (DLGN).
    """
    order = None if permute is None else tuple(permute)
    return remembered(
        _deep,
        at_lines(f, gate_at),
        at_lines(feature or f, gate_at),
        True,
        beta,
        epsilon,
        constant_input,
        order,
        has_aux,
        wanted(allow, kinds),
    )


@transformation()
def DLGN_SF(  # noqa: N802
    f: Function,
    *,
    beta: float | None = None,
    epsilon: float = 0.1,
    constant_input: bool = False,
    permute: Sequence[int] | None = None,
    has_aux: bool = False,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Function:
    """Transform f into a DLGN with shallow features: each layer's gates are one linear map of the input.

    Args:
        f: the value network (params, x), x: [N, ...] → [N, K].
        beta: steepness of soft gates; None for hard gates.
        epsilon: as of `soft_gate`.
        constant_input: as of `DGN`.
        permute: as of `DGN`.
        has_aux: as of `DGN`; the feature network has none.
        allow: as of `gates`, for the value network.
        kinds: as of `gates`.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → [N, K], params = {"feature": maps of `shallow_features(f)`, "value": Θ^V}.

    Raises:
        ValueError: as `DGN`; f has gates that are of no pre-activation, and are not left in f by `kinds`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> maps = npk.shallow_features(f)(jax.random.key(0), jnp.eye(2), jnp.ones((1, 2)))
        >>> npk.DLGN_SF(f)({"feature": maps, "value": jnp.eye(2)}, jnp.ones((3, 2))).shape
        (3, 2)

    Source: Lakshminarayanan & Singh 2021, section 3 (DLGN-SF).
    """
    order = None if permute is None else tuple(permute)
    return remembered(
        _shallow, at_lines(f, gate_at), beta, epsilon, constant_input, order, has_aux, wanted(allow, kinds)
    )


def _deep(
    f: Function,
    feature: Function,
    linearly: bool,
    beta: float | None,
    epsilon: float,
    constant_input: bool,
    permute: Sequence[int] | None,
    has_aux: bool,
    wants: Wanted,
) -> Function:
    """`DGN`, or `DLGN` where the feature network is made linear."""
    network = linear(feature, has_aux=has_aux, allow=wants.allow, kinds=wants.kinds) if linearly else feature
    makes = _gates_from(network, not linearly, beta, epsilon, has_aux, wants)
    return _composed(f, makes, constant_input, permute, has_aux, wants)


def _shallow(
    f: Function,
    beta: float | None,
    epsilon: float,
    constant_input: bool,
    permute: Sequence[int] | None,
    has_aux: bool,
    wants: Wanted,
) -> Function:
    """`DLGN_SF`, made once."""

    def makes(params: PyTree, x: Any) -> tuple[Gates, Any]:
        _check_shallow(remembered(programs_of, f, has_aux, wants)(params["value"], x))
        flat = jnp.concatenate([a.reshape(a.shape[0], -1) for a in floats_of(x)], 1)
        q = [
            jnp.tensordot(flat, m["kernel"], 1) + jnp.expand_dims(m["bias"], 0)  # [N, *gate]
            for m in params["feature"]
        ]
        return tuple(hard_gate(v) if beta is None else soft_gate(v, beta, epsilon) for v in q), {}

    return _composed(f, makes, constant_input, permute, has_aux, wants)


def _check_shallow(program: Program) -> None:
    """A linear map of the input can take the place of every pre-activation."""
    for equation in activations(program):
        if equation.activation.kind == "pool":
            raise NoLinearForm(
                f"the max-pooling at {equation.source} has gates that no linear map of the input makes: use average "
                "pooling.",
                "pool",
            )
        if equation.activation.alone:
            raise NoLinearForm(
                f"the gate at {equation.source} ({equation.activation.kind}) is no function of one value each, which a "
                "linear map of the input could make: kinds=('activation',) leaves it in f.",
                equation.activation.kind,
            )


@transformation("key, params, x")
def shallow_features(
    f: Function, *, kinds: Sequence[str] | None = None, gate_at: Sequence[str] = ()
) -> Callable[[PRNGKeyArray, PyTree, Any], list[dict[str, Any]]]:
    """Transform f into the initial feature parameters of `DLGN_SF(f)`: a linear map of the input a gate.

    Args:
        f: the value network (params, x), x: [N, ...] → [N, K].
        kinds: as of `DLGN_SF`.
        gate_at: as of `DLGN_SF`.

    Returns:
        A function (key, params, x) → a list of {"kernel": [d, *gate], "bias": [*gate]}, d the number of input
        features, kernels Gaussian with variance 2/d, biases zero. Of params and x only shapes are used.

    Raises:
        ValueError: as `gates`; f has gates that are of no pre-activation.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> maps = npk.shallow_features(f)(jax.random.key(0), jnp.ones((3, 5)), jnp.ones((1, 3)))
        >>> [m["kernel"].shape for m in maps]
        [(3, 5)]

    Source: Lakshminarayanan & Singh 2021, section 3 (DLGN-SF).
    """

    def draw(key: PRNGKeyArray, params: PyTree, x: Any) -> list[dict[str, Any]]:
        check_key(key)
        program = activation_program(at_lines(f, gate_at), params, x, kinds=wanted((), kinds).kinds)
        _check_shallow(program)
        found = gate_shapes(program)
        features, dtype = (
            sum(math.prod(a.shape[1:]) for a in floats_of(x)),
            working_dtype(*jax.tree_util.tree_leaves(params)),
        )
        keys = jax.random.split(key, len(found))
        scale = math.sqrt(2 / features)

        def kernel(key: Any, *shape: int) -> Any:  # drawn as one row, which compiles in a tenth of the time
            return scale * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

        return [
            {"kernel": kernel(k, features, *g.shape[1:]), "bias": jnp.zeros(g.shape[1:], dtype)}
            for k, g in zip(keys, found, strict=True)
        ]

    return draw
