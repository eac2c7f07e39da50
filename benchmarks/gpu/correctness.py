"""Every public kernel on this device against float64 on the CPU, architecture by architecture.

Gates and counts of whole numbers must be the same bit for bit. Everything else is of real numbers, under the
highest precision of products, and must lie within a bound of the reference, relative to its largest entry. At
JAX's default precision, which is lower on a GPU, a network's own products differ; by how much is told, not judged.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import npk.infinite
from benchmarks.gpu.architectures import ARCHITECTURES, Architecture
from benchmarks.gpu.record import Part, described, relative
from benchmarks.gpu.sizes import Sizes
from npk.path_kernels.engines import pooled
from npk.paths import form_of
from npk.programs import cores, x64

ROWS, COLUMNS = 6, 5
EXACT, FLOAT, ANGLES = 0.0, 1e-5, 1e-4  # of float32; angles are lost in cosines of inputs that are nearly equal


@dataclasses.dataclass(frozen=True)
class Draw:
    """What the kernels are given: parameters, two batches, and gates that are the same on every device."""

    f: Callable[[Any, Any], Any]
    params: Any
    x1: Any
    x2: Any
    gates1: tuple[Any, ...]
    gates2: tuple[Any, ...]


Kernel = Callable[[Draw], Any]


def _both(function: Callable[..., Any]) -> Kernel:
    return lambda d: function(d.f)(d.params, d.x1, d.x2)


def _parts(split: npk.NTKSplit) -> Any:
    return jnp.stack([split.value, split.feature, split.cross])


def _given(d: Draw, **options: Any) -> Any:
    return npk.path_kernel(d.f)(d.params, d.x1, d.x2, gates1=d.gates1, gates2=d.gates2, **options)


def _plain(d: Draw) -> Any:
    """By the plain rules: engines do not take what is traced."""
    return jax.jit(lambda *numbers: _given(Draw(d.f, *numbers)))(*(getattr(d, f.name) for f in _NUMBERS))


_NUMBERS = dataclasses.fields(Draw)[1:]


def _fused(d: Draw) -> Any:
    """The fused kernel itself; run by XLA where there is no GPU."""
    interpret = jax.default_backend() != "gpu"
    chain = pooled.covers(form_of(d.f, d.params, d.x1), True)
    assert not isinstance(chain, str), chain
    if d.x1.dtype == jnp.float64:  # the reference
        return _plain(d)
    assert pooled.layout(chain, [g.shape[-1] for g in d.gates1], d.x1.dtype) is not None
    one, two = ((x[:, None], tuple(g[:, None] for g in gates)) for x, gates in ((d.x1, d.gates1), (d.x2, d.gates2)))
    fast = {"xla_backend_optimization_level": 0} if interpret else None
    compute = functools.partial(pooled.kernel, chain, dtype=d.x1.dtype, interpret=interpret)
    return jax.jit(compute, compiler_options=fast)(one, two)


def _sketched(made: Callable[..., Any]) -> Kernel:
    return lambda d: made(d.f)(d.params, d.x1, features=64, key=jax.random.key(3)).gram()


def _flat(arrays: Any) -> Any:
    return jnp.concatenate([a.reshape(a.shape[0], -1) for a in arrays], 1)


# Of whole numbers; on soft gates they are compared within the bound.
WHOLE: dict[str, Kernel] = {
    "gates": lambda d: _flat(npk.gates(d.f)(d.params, d.x1)),
    "layer overlaps, counted": lambda d: jnp.stack(npk.layer_overlaps(d.gates1, d.gates2, normalize=False)),
    "path counts": lambda d: _given(d, normalize=False),
    "path features": lambda d: npk.npf(d.f)(d.params, d.x1),
}
REAL: dict[str, Kernel] = {
    "path kernel, own gates": _both(npk.path_kernel),
    "path kernel, given gates": _given,
    "overlap": lambda d: npk.overlap(d.gates1, d.gates2),
    "gram": lambda d: npk.gram(d.x1, d.x2),
    "ntk": _both(npk.ntk),
    "ntk, all outputs": lambda d: npk.ntk(d.f)(d.params, d.x1, d.x2, outputs="full"),
    "split_ntk": lambda d: _parts(npk.split_ntk(d.f)(d.params, d.x1, d.x2)),
    "ntk_diagonal": lambda d: npk.ntk_diagonal(d.f)(d.params, d.x1),
    "split_ntk_diagonal": lambda d: _parts(npk.split_ntk_diagonal(d.f)(d.params, d.x1)),
    "sketch": _sketched(npk.sketch),
    "sketch_ntk": _sketched(npk.sketch_ntk),
}
POOLED: dict[str, Kernel] = {"fused kernel": _fused, "plain rules": _plain}
LIMITS: dict[str, Kernel] = {
    "infinite nngp": _both(npk.infinite.nngp),
    "infinite ntk": _both(npk.infinite.ntk),
    "infinite path kernel": _both(npk.infinite.path_kernel),
}
# Not judged: what the default precision of products does to a network of real numbers.
DEFAULT: dict[str, Kernel] = {"gates": WHOLE["gates"], "ntk": REAL["ntk"]}


@contextlib.contextmanager
def _wide_on_cpu() -> Iterator[None]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]), x64(True):
        yield


def _drawn(architecture: Architecture, whole: bool) -> Draw:
    """Numbers in NumPy's float32; the gates those of float64."""
    params, x = architecture.draw(ROWS + COLUMNS, whole)
    with _wide_on_cpu():
        wide = jax.tree_util.tree_map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        gates = [np.asarray(g, np.float32) for g in jax.jit(npk.gates(architecture.f))(*wide)]
    sides = ((a[:ROWS], a[ROWS:]) for a in (x, *gates))
    (x1, x2), *pairs = sides
    return Draw(architecture.f, params, x1, x2, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def _placed(draw: Draw, dtype: Any) -> Draw:
    numbers = {f.name: getattr(draw, f.name) for f in _NUMBERS}
    return dataclasses.replace(draw, **jax.tree_util.tree_map(lambda a: jnp.asarray(a, dtype), numbers))


def reference(kernel: Kernel, draw: Draw) -> np.ndarray:
    """A kernel in float64 on the CPU."""
    with _wide_on_cpu():
        return np.asarray(kernel(_placed(draw, jnp.float64)))


def compare(kernel: Kernel, draw: Draw, bound: float | None, precision: str) -> dict[str, Any]:
    """One comparison; bound None is told and not judged."""
    expected = reference(kernel, draw)
    with jax.default_matmul_precision(precision):
        found = np.asarray(kernel(_placed(draw, jnp.float32)))
    error = relative(found, expected)
    judged = {} if bound is None else {"passed": error <= bound, "bound": bound}
    differ = {"entries that differ": int((found != expected).sum())} if bound in (None, EXACT) else {}
    return {"largest difference": error, **judged, **differ, "entries": int(expected.size)}


def comparisons(architecture: Architecture) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every comparison of an architecture by its name."""
    drawn = {whole: _drawn(architecture, whole) for whole in (True, False)}
    groups: list[tuple[dict[str, Kernel], bool, float | None, str]] = [
        (WHOLE, True, EXACT if architecture.hard else FLOAT, "highest"),
        (REAL, False, FLOAT, "highest"),
        (POOLED if architecture.convolves else {}, False, FLOAT, "highest"),
        (LIMITS if architecture.limit else {}, False, ANGLES, "highest"),
        (DEFAULT if jax.default_backend() == "gpu" else {}, False, None, "default"),
    ]
    return {
        name if bound is not None else f"{name}, default precision": functools.partial(
            compare, kernel, drawn[whole], bound, precision
        )
        for kernels, whole, bound, precision in groups
        for name, kernel in kernels.items()
    }


def chosen(architecture: str, share: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every `share`-th comparison of an architecture; the next one begins a kernel later, so that all have a turn."""
    place = list(ARCHITECTURES).index(architecture)
    found = comparisons(ARCHITECTURES[architecture])
    return {name: call for number, (name, call) in enumerate(found.items()) if (number + place) % share == 0}


def run(sizes: Sizes, part: Part) -> None:
    """All architectures, each in a process of its own: most of it is compilation, and one that hangs ends alone."""
    names = list(ARCHITECTURES if sizes.architectures is None else sizes.architectures)
    missing = [name for name in ARCHITECTURES if name not in names]
    if missing:
        part.left_out(", ".join(missing), "only on a GPU")
    if sizes.share > 1:
        part.left_out(f"all but one in {sizes.share} kernels of an architecture", "only on a GPU")
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        for done in [pool.submit(_one_process, name, sizes.share, part) for name in names]:
            done.result()


def _one_process(name: str, share: int, part: Part) -> None:
    """Run this module for one architecture and keep every line that it prints."""
    if (left := part.deadline - time.perf_counter()) <= 0:
        return part.left_out(name, "no time was left")
    command = [sys.executable, "-m", "benchmarks.gpu.correctness", name, str(share)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".04"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        timer = threading.Timer(min(left, threading.TIMEOUT_MAX), process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            part.row(*json.loads(line))
        timer.cancel()
    if process.returncode and time.perf_counter() >= part.deadline:
        part.left_out(f"the other kernels of {name}", "no time was left")
    elif process.returncode:
        part.row(name, {"error": f"its process ended with {process.returncode}"})
    return None


def main(architecture: str, share: int) -> None:
    """Print each comparison of one architecture as a line: its name and what was found."""
    for kernel, comparison in chosen(architecture, share).items():
        try:
            found = comparison()
        except Exception as error:  # of any kind: the other kernels are compared all the same
            traceback.print_exc()
            found = {"error": described(error)}
        print(json.dumps([f"{architecture}: {kernel}", found]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
