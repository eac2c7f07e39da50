"""Full-batch gradient descent of real wide networks beside what their kernels predict in closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk import networks
from npk.gating import DGN, Function, soft_relu
from npk.infinite import ntk_parameterised, variances
from npk.path_kernels import path_kernel
from npk.solving import gradient_flow
from npk.studies.widths import mean_factor
from npk.tangent_kernels import split_ntk
from npk.training import redraw

# What is trained: in the JSON → in figures. In the first K = K^V and the NPK is the limit of both; in the second
# K = K^V, but its mean is not the NPK's multiple; in the third K has parts through the gates.
CASES = {"FR-II": "random gates, frozen (FR-II)", "ReLU": "ReLU", "soft": "soft gates"}
KERNELS = {"ntk": "K", "value": "K^V", "npk": "d∏σ²H"}
_RECORDS = 48


def case(name: str, network: str, width: int, depth: int | None, outputs: int, key: Any, x: Any, beta: float) -> Any:
    """The function that is trained, and its initial parameters (He's)."""
    activation = jax.nn.relu if name != "soft" else lambda q: soft_relu(q, beta)
    module = networks.build(network, outputs=outputs, width=width, depth=depth, use_bias=False, activation=activation)
    shapes = jax.eval_shape(module.init, key, x[:1])
    value, feature = (redraw(shapes, k, "he") for k in jax.random.split(key))
    if name == "FR-II":
        return DGN(module.apply), {"feature": feature, "value": value}
    return module.apply, value


def kernels_of(f: Function, params: Any, x: Any, x_test: Any, outputs: int) -> dict[str, tuple[Any, Any]]:
    """Name → (kernel of the training samples, of the test samples with them), in NTK parameterisation."""
    value = params["value"] if set(params) == {"feature", "value"} else params
    factor = mean_factor(value)
    split = split_ntk(f)
    both = [ntk_parameterised(split(params, *pair), params, outputs=outputs) for pair in ((x,), (x_test, x))]
    paths = path_kernel(f)
    return {
        "ntk": (both[0].total, both[1].total),
        "value": (both[0].value, both[1].value),
        "npk": (factor * paths(params, x), factor * paths(params, x_test, x)),
    }


def descend(
    f: Function, params: Any, x: Any, y: Any, x_test: Any, step: float, steps: int, say: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradient descent on ½Σ‖f - y‖² in NTK parameterisation: recorded steps, outputs on both sets."""
    sizes = variances(params)
    gradient = jax.grad(lambda p: 0.5 * jnp.sum(jnp.square(f(p, x) - y)))

    @jax.jit
    def advance(params: Any, count: Any) -> Any:
        def one(_: Any, p: Any) -> Any:
            return jax.tree_util.tree_map(lambda a, g, v: a - jnp.asarray(step * v, a.dtype) * g, p, gradient(p), sizes)

        return jax.lax.fori_loop(0, count, one, params)

    outputs = jax.jit(lambda p: (f(p, x), f(p, x_test)))
    recorded = np.unique(np.round(np.geomspace(1, steps, _RECORDS)).astype(int))
    recorded = np.concatenate([[0], recorded])
    found = [outputs(params)]
    for before, after in zip(recorded[:-1], recorded[1:], strict=True):
        params = advance(params, int(after - before))
        found.append(jax.device_get(outputs(params)))
        say(after / steps)
    train, test = (np.stack([np.asarray(pair[i], np.float64) for pair in found]) for i in (0, 1))
    if not np.isfinite(train).all():
        raise ValueError(f"gradient descent diverged at step size {step:g}: make flow_step smaller.")
    return recorded, train, test


def measure(
    name: str,
    network: str,
    width: int,
    depth: int | None,
    data: dict[str, np.ndarray],
    classes: int,
    *,
    key: Any,
    beta: float,
    relative_step: float,
    steps: int,
    say: Callable[[float], None],
) -> dict[str, Any]:
    """One network: curves of the real run and of each prediction, and how far apart their outputs are.

    The step is `relative_step` over the largest eigenvalue of K. Errors are the largest over the recorded times of
    ‖f̂ - f‖ / ‖y - f₀‖, on the training and on the test samples.
    """
    x, x_test = jnp.asarray(data["x"]), jnp.asarray(data["x_test"])
    y, y_test = (np.eye(classes)[data[k]] - 1 / classes for k in ("y", "y_test"))
    f, params = case(name, network, width, depth, classes, key, x, beta)
    kernels = kernels_of(f, params, x, x_test, classes)
    step = relative_step / float(np.linalg.eigvalsh(np.asarray(kernels["ntk"][0], np.float64))[-1])
    recorded, train, test = descend(f, params, x, jnp.asarray(y, x.dtype), x_test, step, steps, say)
    times = step * recorded
    result = {
        "case": name,
        "step": step,
        "steps": steps,
        "times": times.tolist(),
        "real": _curves(train, test, y, data["y_test"]),
        "predicted": {},
        "errors": {},
    }
    sizes = np.linalg.norm(y - train[0]), np.linalg.norm(y_test - test[0])
    for kernel, (own, cross) in kernels.items():
        flow = gradient_flow(own, y, test_kernel=cross, initial=train[0], test_initial=test[0])
        predicted = flow.train(times), flow.test(times)
        result["predicted"][kernel] = _curves(*predicted, y, data["y_test"])
        gaps = [
            float(np.linalg.norm(p - r, axis=(1, 2)).max() / size)
            for p, r, size in zip(predicted, (train, test), sizes, strict=True)
        ]
        result["errors"][kernel] = dict(zip(("train", "test"), gaps, strict=True))
    return result


def _curves(train: np.ndarray, test: np.ndarray, y: np.ndarray, test_labels: np.ndarray) -> dict[str, list[float]]:
    loss = 0.5 * np.square(train - y).sum(axis=2).mean(axis=1)
    wrong = (test.argmax(axis=2) != test_labels).mean(axis=1)
    return {"train_loss": loss.tolist(), "test_error": wrong.tolist()}
