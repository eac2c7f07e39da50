"""Memory: peaks of the parts before, and the buffers of compiled calls."""

import functools
from typing import Any

from benchmarks import harness, infinite
from benchmarks.gpu import tangents
from benchmarks.gpu.record import Part
from benchmarks.gpu.sizes import Sizes


def limits(case: infinite.Case) -> dict[str, float]:
    """MiB of our tangent kernel at infinite width."""
    call = infinite.calls(case, False)["npk ntk"]
    return {"npk ntk": harness.buffers(call.func, *call.args)}


def run(sizes: Sizes, part: Part) -> None:
    """First what is known, then what has to be compiled again."""
    for name, other in part.record.content["parts"].items():
        if "peaks" in other:
            part.row(f"peak MiB, {name}", other["peaks"])

    def compiled(measure: Any) -> dict[str, Any]:
        return {"buffers, MiB": measure()}

    size = sizes.tangents[0]
    part.case(f"{size.network}, N={size.inputs[0]}", lambda: compiled(functools.partial(tangents.buffers, size)))
    name, case = next(iter(sizes.infinite.items()))
    part.case(f"{name}, N={case.n}²", lambda: compiled(functools.partial(limits, case)))
