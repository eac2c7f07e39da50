"""What this process may take of its machine: cores and memory."""

import os
import pathlib


def cores() -> int:
    """How many cores this process may run on; where the system has no such bounds (macOS), all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes: what the system says is available, or what a container's limit leaves, whichever is less."""
    system = _system()
    limit, used = (_number(f"/sys/fs/cgroup/memory.{kind}") for kind in ("max", "current"))
    return system if limit is None or used is None else max(0, min(system, limit - used + _cached()))


def _system() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    # Elsewhere than on Linux: half of the machine's memory, an estimate; on Windows a guess.
    if not hasattr(os, "sysconf"):
        return 4 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cached() -> int:
    """Pages of files within the container's use: given back when asked for."""
    values = dict(line.split() for line in _lines("/sys/fs/cgroup/memory.stat"))
    return int(values.get("inactive_file", 0))


def _number(path: str) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
