"""Run every benchmark: `python -m benchmarks` (flags are passed to benchmarks.tangent_kernels)."""

import subprocess
import sys

for module, flags in (
    ("benchmarks.path_kernels", []),
    ("benchmarks.infinite", []),
    ("benchmarks.training", []),
    ("benchmarks.tiles", []),
    ("benchmarks.faults", []),
    ("benchmarks.gpu", []),
    ("benchmarks.solving", []),
    ("benchmarks.tangent_kernels", sys.argv[1:]),
    ("benchmarks.scaling", []),
    ("benchmarks.large", []),
):
    subprocess.run([sys.executable, "-m", module, *flags], check=True)
