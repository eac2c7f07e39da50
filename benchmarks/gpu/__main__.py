"""One prepared script for an hour on an accelerator: `python -m benchmarks.gpu`, whole in eight minutes on an H100.

Parts in order of value: correctness, ntk, dense, convolution, infinite, training, memory. Every result is on disk as
soon as it is there, and nothing that fails ends the rest. It starts from a copied tree, with no installation, no git
and no network (`PYTHONPATH=. python -m benchmarks.gpu`); neural-tangents is compared with where it is found. On a
machine without a GPU it runs the same parts at about a hundredth of the size.

Needs about 8 minutes on one GPU, or on two cores and 4 GiB in the small form; neural-tangents for the peer's rows.
"""

import argparse
import math
import pathlib
import sys

import jax

from benchmarks import harness
from benchmarks.gpu import convolution, correctness, dense, limits, memory, regimes, tangents
from benchmarks.gpu.record import Measure, Record, failures, named, run, tables
from benchmarks.gpu.sizes import FULL, SECONDS, SMALL

PARTS: dict[str, Measure] = {
    "correctness": correctness.run,
    "ntk": tangents.run,
    "dense": dense.run,
    "convolution": convolution.run,
    "infinite": limits.run,
    "training": regimes.run,
    "memory": memory.run,
}


def parts_of(text: str) -> list[str]:
    """The parts in a list with commas."""
    unknown = sorted(set(parts := text.split(",")) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return parts


def main() -> int:
    """Run the parts, print the tables; the exit status says whether all went well."""
    parser = harness.parser(__doc__)
    parser.add_argument("--only", type=parts_of, metavar="PART,…", help="these parts; others already in the file stay")
    parser.add_argument("--out", type=pathlib.Path, help="the file of the results")
    parser.add_argument("--minutes", type=float, help="after which no case begins (7.5; the small form: none)")
    parser.add_argument("--small", action="store_true", help="the small form on a GPU too")
    args = parser.parse_args()
    harness.begin(__doc__, "neural-tangents")
    small = args.small or jax.default_backend() != "gpu"
    # A GPU's results have a name of their own, so that no CPU's take their place.
    path = args.out or harness.RESULTS / ("gpu-quick.json" if small else "gpu.json")
    print(f"Devices: {', '.join(str(d) for d in jax.devices())}; results: {path.name}", flush=True)
    if small:
        why = "" if args.small else ", since JAX has no GPU here: a CPU's numbers say nothing about a GPU"
        print(f"This is the small form, about a hundredth of the size{why}.", flush=True)
    record = Record.begin(path, (SMALL if small else FULL).name, keep=args.only is not None)
    limit = args.minutes or (math.inf if small else 7.5)
    run(named(args.only, PARTS), SMALL if small else FULL, record, {} if small else SECONDS, 60 * limit)
    tables(record.content)
    failed = failures(record.content)
    print(f"{path}: " + (f"{len(failed)} failed:" if failed else "everything went well"), *failed, sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
