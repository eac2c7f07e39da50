"""Kernels at infinite width beside neural-tangents' analytic ones."""

import functools
from typing import Any

from benchmarks import infinite
from benchmarks.gpu.peer import neural_tangents
from benchmarks.gpu.record import Part, compared, relative
from benchmarks.gpu.sizes import Sizes


def measure(case: infinite.Case, repeats: int, library: Any | None) -> dict[str, Any]:
    """Milliseconds a pair, and how far the two libraries differ."""
    found, results = compared(infinite.calls(case, library is not None), repeats)
    per_pair = {name: ms / case.n**2 for name, ms in found["ms"].items()}
    both = [kind for kind in infinite.KINDS if {f"npk {kind}", f"neural-tangents {kind}"} <= results.keys()]
    faster = {kind: per_pair[f"neural-tangents {kind}"] / per_pair[f"npk {kind}"] for kind in both}
    differences = {kind: relative(results[f"npk {kind}"], results[f"neural-tangents {kind}"]) for kind in both}
    return {"ms a pair": per_pair, "times faster": faster, "difference": differences, **found}


def run(sizes: Sizes, part: Part) -> None:
    """Every case."""
    library = neural_tangents(part)
    for name, case in sizes.infinite.items():
        part.case(f"{name}, N={case.n}²", functools.partial(measure, case, sizes.repeats, library))
