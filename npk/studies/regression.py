"""Ridge regression with finite and infinite kernels on one split."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from npk import infinite, networks, solving, training
from npk.path_kernels import gram, path_kernel
from npk.programs import in_parts
from npk.studies.correct import packed

# Name in the JSON → what tables and figures call it.
LABELS = {
    "pixels": "pixels alone, Σ",
    "npk-random": "H, random gates",
    "npk-learned": "H, learned gates",
    "npk-infinite": "H, infinite width",
    "ntk-infinite": "NTK, infinite width",
    "nngp-infinite": "NNGP, infinite width",
}

# A kernel of two batches: (x1, x2=None) → [N1, N2].
Kernel = Callable[..., Any]


def classify(kernel: Kernel, data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies of ridge regression; the ridge is chosen on a part of the training samples."""
    x, x_test = jnp.asarray(data["x"]), jnp.asarray(data["x_test"])
    found = solving.classify(np.asarray(kernel(x)), np.asarray(kernel(x_test, x)), data["y"], data["y_test"])
    return {
        "regularization": found.regularization,
        "validation_accuracy": found.validation_accuracy,
        "test_accuracy": found.test_accuracy,
        "correct": packed(found.correct),
    }


def fixed_kernels(network: str, depth: int | None, data: dict[str, np.ndarray]) -> Iterator[tuple[str, Kernel]]:
    """The kernels that have no random part."""
    x = jnp.asarray(data["x"][:1])
    module = networks.build(network, outputs=1, width=16, depth=depth, use_bias=False)
    params = module.init(jax.random.key(0), x)
    yield "pixels", lambda a, b=None: gram(_flat(a), None if b is None else _flat(b))
    for name, transform in (("npk", infinite.path_kernel), ("ntk", infinite.ntk), ("nngp", infinite.nngp)):
        kernel = transform(module.apply)
        yield f"{name}-infinite", lambda a, b=None, kernel=kernel: kernel(params, a, b)


def gates_of_a_network(
    module: Any,
    seed: int,
    data: dict[str, np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    say: Callable[[float], None],
) -> tuple[dict[str, Kernel], float]:
    """H of a ReLU network before and after it is trained (its gates random, and learned), and its test accuracy."""
    keys = jax.random.split(jax.random.key(seed))
    params = jax.jit(module.init)(keys[0], data["x"][:1])
    trained = training.train(
        module.apply,
        params,
        data["x"],
        data["y"],
        key=keys[1],
        epochs=epochs,
        batch_size=min(batch_size, len(data["x"])),
        optimizer=optax.adam(learning_rate),
        stages=2,
        on_record=lambda record: say(record.epoch / epochs),
    )
    kernel = path_kernel(module.apply)
    stages = dict(zip(("npk-random", "npk-learned"), trained.stages, strict=True))
    own = {name: lambda a, b=None, stage=stage: kernel(stage, a, b) for name, stage in stages.items()}
    logits = jax.jit(module.apply)
    scores = in_parts(lambda part: logits(trained.stages[-1], part), data["x_test"])
    return own, solving.accuracy(scores, data["y_test"])


def _flat(x: Any) -> Any:
    return x.reshape(x.shape[0], -1)
