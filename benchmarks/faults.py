"""Faults: of disks, processes, bits and clocks; what is told, and whether a folder ends as if there had been none.

While a kernel is written: killed twenty times at random moments, a full disk, a truncated chunk, a flipped byte, a
chunk that was not renamed, a read-only store, a clock that jumps, another configuration, two processes at once. A full
and a read-only disk are real ones (a small tmpfs) where this may be mounted, else limits of the process and of the
folder. Of every kind of folder: processes that end at an event below it (`crash_points`), and files that are not as
they were written, a bit at a time (`flips`).

Needs about an hour on two cores (--quick: 10 minutes), Linux, and a C compiler for the clock and the events.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import harness

PARTS = ("writing", "crash_points", "flips")
SAMPLES, TILE, WIDTH = 1_000, 100, 64
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
/* The wall clock jumps back and forth by years from call to call; the monotonic clock is the true one. */
static long jump(void) { static long calls; return (calls++ / 7 % 3 - 1) * 63072000L; }
int clock_gettime(clockid_t id, struct timespec *t) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec += jump();
  return result;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; return 0;
}
time_t time(time_t *out) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec; return now.tv_sec;
}
"""


def child(options: dict[str, Any]) -> None:
    """Write the path kernel of a small network; prints messages, and an error as one line."""
    if "limit" in options:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["limit"], options["limit"]))
    import jax
    import numpy as np

    import npk
    from npk import networks
    from npk.tiles import Progress, fingerprint, stored

    model = networks.MLP(width=WIDTH, depth=4, outputs=1, use_bias=False)
    x = np.random.default_rng(options.get("seed", 0)).standard_normal((SAMPLES, 20)).astype(np.float32)
    params = model.init(jax.random.key(1), x[:1])
    path_kernel = npk.path_kernel(model.apply)

    one = {"x": x, "gates": [np.asarray(g) for g in npk.gates(model.apply)(params, x)]}

    @jax.jit
    def compiled(a: Any, b: Any) -> Any:
        return path_kernel(params, a["x"], b["x"], gates1=a["gates"], gates2=b["gates"])

    def kernel(a: Any, b: Any) -> Any:
        time.sleep(options["pause"])
        return compiled(a, b)

    def show(progress: Progress) -> None:
        if "damaged" in progress.message or "disk is full" in progress.message:
            print(progress.message, flush=True)

    try:
        stored(kernel, options["folder"], identity={"params": fingerprint(params)}, tile=TILE, progress=show)(one)
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)


def start(folder: pathlib.Path, pause: float = 0.0, environment: dict[str, str] | None = None, **options: Any) -> Any:
    """Start the command on a store."""
    words = json.dumps({"folder": str(folder), "pause": pause, **options})
    command = [sys.executable, "-m", "benchmarks.faults", "--child", words]
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", **(environment or {})}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(folder: pathlib.Path, process: Any) -> str:
    """What it said until it ended, without the place of the store."""
    out, errors = process.communicate(timeout=600)
    lines = (out or errors[-500:] if process.returncode else out).strip().splitlines()
    return " / ".join(lines).replace(str(folder), "STORE")


def run(folder: pathlib.Path, **options: Any) -> str:
    """The command on a store, to its end."""
    return told(folder, start(folder, **options))


def chunks(folder: pathlib.Path) -> list[pathlib.Path]:
    """The chunks that are there whole, by name."""
    return sorted(p for p in folder.glob("c.*") if not p.name.endswith("__lock"))


def hash_of(folder: pathlib.Path) -> str:
    """Of the names and bytes of all chunks and of the description."""
    found = hashlib.sha256()
    for path in [folder / "zarr.json", *chunks(folder)]:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def wait_for(folder: pathlib.Path, number: int, process: Any) -> None:
    """Until so many chunks are there."""
    while len(chunks(folder)) < number:
        if process.poll() is not None:
            raise RuntimeError(f"it ended before {number} chunks were there: {told(folder, process)}")
        time.sleep(0.01)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> Iterator[bool]:
    """A disk of that size at a folder; whether it could be mounted."""
    folder.mkdir()
    mounted = _quietly("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _quietly("umount", str(folder))


def _quietly(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


# --------------------------------------------------------------------------------------------- faults


def killed(folder: pathlib.Path, kills: int) -> str:
    """Killed at random moments: from before the store is begun to late in the run."""
    moments = random.Random(0)
    for number in range(kills):
        process = start(folder, pause=0.4)
        if number:  # the first is killed at any moment from its start
            before = len(chunks(folder))
            while process.poll() is None and len(chunks(folder)) == before:
                time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        if process.poll() is not None:
            raise RuntimeError(f"the run was over after {number} kills: make it longer")
        process.kill()
        process.communicate()
    there = len(chunks(folder))
    return f"killed {kills} times, {there} chunks there; {run(folder)}".removesuffix("; ")


def full(folder: pathlib.Path, size: int) -> str:
    """The disk is full half way, and then has room."""
    disk = folder.parent / "disk"
    with small_disk(disk, size // 2) as mounted:
        if not mounted:
            shutil.rmtree(disk)
            return f"(limit of the process) {run(folder, limit=TILE * TILE * 2)} / then {run(folder)}"
        message = run(disk / "k")
        _quietly("mount", "-o", f"remount,size={2 * size}", str(disk))
        message += run(disk / "k")
        shutil.copytree(disk / "k", folder)
        return message.replace(str(disk / "k"), "STORE")


def read_only(folder: pathlib.Path, size: int) -> str:
    """The store cannot be written while it is unfinished."""
    disk = folder.parent / "read-only"
    with small_disk(disk, 2 * size) as mounted:
        where = disk / "k" if mounted else folder
        process = start(where, pause=0.1)
        wait_for(where, 20, process)
        process.kill()
        process.communicate()
        if mounted:
            _quietly("mount", "-o", "remount,ro", str(disk))
        else:
            where.chmod(0o555)
        message = run(where)
        if mounted:
            _quietly("mount", "-o", "remount,rw", str(disk))
        else:
            where.chmod(0o755)
        message += run(where)
        if mounted:
            shutil.copytree(where, folder)
        return message.replace(str(where), "STORE")


def damaged(folder: pathlib.Path, kind: str) -> str:
    """A chunk of a finished store is damaged."""
    run(folder)
    victim = chunks(folder)[37]
    if kind == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif kind == "flipped":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.rename(victim.with_name(victim.name + ".__lock"))
    return run(folder)


def clocked(folder: pathlib.Path) -> str:
    """The wall clock jumps by years, and the times of files are any."""
    source, library = folder.parent / "clock.c", folder.parent / "clock.so"
    source.write_text(_CLOCK)
    jumping = _quietly("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl")
    environment = {"LD_PRELOAD": str(library)} if jumping else {}
    process = start(folder, pause=0.05, environment=environment)
    wait_for(folder, 60, process)
    process.kill()
    process.communicate()
    for number, path in enumerate(chunks(folder)):
        os.utime(path, (1.2e9 * (number % 3), 1.2e9 * (number % 3)))
    message = run(folder, environment=environment)
    return message or ("" if jumping else "(no compiler here: only the times of files were changed)")


def reconfigured(folder: pathlib.Path) -> str:
    """The same folder with other data."""
    run(folder)
    return run(folder, seed=1)


def two_at_once(folder: pathlib.Path) -> str:
    """Two processes that do not know of each other."""
    both = [start(folder, pause=0.05) for _ in range(2)]
    return "".join(told(folder, process) for process in both)


def writing(kills: int) -> tuple[str, str, list[str], list[list[str]], dict[str, list[str]]]:
    """Every fault on a store of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run(folder / "whole")
        whole = hash_of(folder / "whole")
        size = sum(path.stat().st_size for path in chunks(folder / "whole"))
        faults = {
            f"killed {kills} times at random moments": lambda at: killed(at, kills),
            "full disk": lambda at: full(at, size),
            "truncated chunk": lambda at: damaged(at, "truncated"),
            "flipped bit": lambda at: damaged(at, "flipped"),
            "power loss before the renaming": lambda at: damaged(at, "unnamed"),
            "read-only store": lambda at: read_only(at, size),
            "clock that jumps": clocked,
            "other data": reconfigured,
            "two processes at once": two_at_once,
        }
        rows = []
        for number, (fault, inject) in enumerate(harness.each(faults.items(), "{0[0]}".format)):
            where = folder / f"store-{number}" / "k"
            where.parent.mkdir()
            message = inject(where)
            rows.append([fault, message or "–", "yes" if hash_of(where) == whole else "NO"])
            harness.say(" | ".join(rows[-1]))
    columns = ["fault", "what is told", "same bytes in the end"]
    title = f"Faults while a kernel is written ({SAMPLES:,}² pairs, tiles of {TILE}²)"
    return "faults", title, columns, rows, {row[0]: ["other bytes"] for row in rows if row[-1] != "yes"}


def main() -> None:
    """The parts one after another, each a table."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="killed 4 times, some bits, some moments")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--all", action="store_true", help="every moment of every job and every bit: hours")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    harness.begin(__doc__)
    from benchmarks import folder_faults  # not for the child: it loads all of npk

    kills = 4 if args.quick else args.kills
    parts = {
        "writing": lambda: writing(kills),
        "crash_points": lambda: folder_faults.crash_points(args.quick, args.all),
        "flips": lambda: folder_faults.flipped(args.quick, args.all),
    }
    failed = []
    for part in harness.each(args.part or PARTS):
        name, title, columns, rows, wrong = parts[part]()
        harness.report(f"{name}-quick" if args.quick else name, title, columns, rows, {"wrong": wrong})
        failed += wrong
    if failed:
        sys.exit(f"not as it should be: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
