"""Run every benchmark: `python -m benchmarks` (flags are passed to benchmarks.ntk)."""

import subprocess
import sys

for module, flags in (
    ("benchmarks.path_kernel", []),
    ("benchmarks.infinite", []),
    ("benchmarks.training", []),
    ("benchmarks.tiles", []),
    ("benchmarks.faults", []),
    ("benchmarks.gpu", []),
    ("benchmarks.solving", []),
    ("benchmarks.ntk", sys.argv[1:]),
    ("benchmarks.scaling", []),
    ("benchmarks.large", []),
):
    subprocess.run([sys.executable, "-m", module, *flags], check=True)
