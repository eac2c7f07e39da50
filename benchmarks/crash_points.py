"""Crash points: a process ends at its n-th event below a folder, and the same command is given again.

An event is what changes a file system: opening to write, writing, renaming, linking, removing, making a folder,
synchronising. Events of C++ (TensorStore) are met too where the system has a C compiler and is Linux; elsewhere those
of Python alone. What is there after the second command must be what an undisturbed one leaves, file by file.

`python -m benchmarks.crash_points NAME [--every 10] [--halves]` tries them all.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.crash_jobs import CARELESS, JOBS, without_times
from npk.data import load
from npk.folders import broken
from npk.studies import verify

_SOURCE = pathlib.Path(__file__).with_suffix(".c")
_ALL = {**JOBS, **CARELESS}
_ENDED = 137
_LIMIT = 300.0  # seconds, after which a command is stuck
_RUNS = ("study.json", "compare.json", "cob-odt.json")


# ------------------------------------------------------------------------------------- what is compared


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Every file and folder by name, with what must be the same.

    The bytes; of a run's own file all but times; of what Orbax writes, which names its files at random, that a
    checkpoint is as it was sealed: its numbers are those of the run that reads it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if "state" in name.parts[:-1]:
            continue
        if path.is_dir():
            found[f"{name}/"] = "a folder"
        elif name.name in _RUNS:
            content = json.dumps(without_times(json.loads(path.read_bytes())))
            found[str(name)] = hashlib.sha256(content.encode()).hexdigest()
        elif name.name == "manifest.json":
            found[str(name)] = "; ".join(broken(path.parent)) or "as it was sealed"
        else:
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def unlike(there: dict[str, str], wanted: dict[str, str]) -> str:
    """What is not the same in two folders, in words; nothing where all is."""
    said = [f"left over: {name}" for name in there if name not in wanted]
    said += [f"missing: {name}" for name in wanted if name not in there]
    said += [f"another: {name}" for name in wanted if name in there and there[name] != wanted[name]]
    return ", ".join(said)


# ---------------------------------------------------------------------------------------- the processes


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a command ended: its process's status, what it returned or raised, and its events."""

    status: int | None  # None: it was stuck
    result: Any
    error: str
    events: list[str]


@dataclasses.dataclass(frozen=True)
class Moment:
    """What became of a folder whose command ended at an event."""

    at: int
    event: str
    verdict: str  # "same", "not reached", or what was wrong

    @property
    def fine(self) -> bool:
        return self.verdict in ("same", "not reached")


def shim(folder: pathlib.Path) -> pathlib.Path | None:
    """The library that meets every event, or None where it cannot be made."""
    library = folder / "crash_points.so"
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if sys.platform != "linux" or sys.maxsize < 2**32 or compiler is None:
        return None
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)]
    return library if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def _begin(folder: pathlib.Path, at: int | None, halves: bool, log: int) -> None:
    """From now on events are noted in an open file; before the one of that number this process ends."""
    with contextlib.suppress(AttributeError):
        begin = ctypes.CDLL(None).crash_begin
        begin.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
        begin(os.fsencode(folder), -1 if at is None else at, halves, log)
        return
    seen = 0
    what = {"open": 0, "os.rename": 1, "os.link": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.truncate": 0}

    def hook(name: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if name not in what or (name == "open" and not int(args[2] or 0) & (os.O_CREAT | os.O_TRUNC)):
            return
        path = args[what[name]]
        if isinstance(path, (str, bytes, os.PathLike)) and pathlib.Path(os.fsdecode(path)).is_relative_to(folder):
            os.write(log, f"{name} {os.path.relpath(os.fsdecode(path), folder)}\n".encode())
            seen += 1
            if at is not None and seen > at:
                os._exit(_ENDED)

    sys.addaudithook(hook)


def _forked(
    act: Callable[[], Any], folder: pathlib.Path, scratch: pathlib.Path, at: int | None, halves: bool
) -> Ending:
    """A command in a process of its own, which has all modules loaded already."""
    log, result = scratch / "events", scratch / "result"
    result.unlink(missing_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    process = os.fork()
    if not process:
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            _begin(folder, at, halves, file)
            told = {"result": act()}
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f" ({pathlib.Path(place.filename).name}:{place.lineno})"
            told = {"error": f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER") + where}
        except BaseException:
            os._exit(1)
        result.write_text(json.dumps(told))
        os._exit(0)
    os.close(file)
    until, status = time.monotonic() + _LIMIT, None
    while status is None and time.monotonic() < until:
        ended, code = os.waitpid(process, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if ended else None
        time.sleep(0.0 if ended else 0.002)
    if status is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    told = json.loads(result.read_text()) if status == 0 else {}
    return Ending(status, told.get("result"), told.get("error", ""), log.read_text(errors="replace").splitlines())


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A job, a folder for it, and what it must end with."""

    job: str
    scratch: pathlib.Path
    halves: bool
    twice: bool
    events: list[str] = dataclasses.field(default_factory=list)
    wanted: tuple[Any, dict[str, str]] | None = None

    @property
    def folder(self) -> pathlib.Path:
        return self.scratch / "folder"

    def anew(self) -> None:
        """The folder as it is before the job."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if _ALL[self.job].before:
            shutil.copytree(self.scratch / "before", self.folder)

    def command(self, again: bool, at: int | None = None, before: str | None = None) -> Ending:
        def act() -> Any:
            if not again:
                return _ALL[before or self.job].run(self.folder, False)
            with contextlib.suppress(OSError, ValueError):
                verify(self.folder)  # whatever it finds
            return _ALL[self.job].run(self.folder, True), verify(self.folder).harms

        return _forked(act, self.folder, self.scratch, at, self.halves)

    def whole(self) -> "_Trial":
        """With what an undisturbed job leaves."""
        if before := _ALL[self.job].before:
            made = self.command(False, before=before)
            _ALL[self.job].harm(self.folder)
            self.folder.rename(self.scratch / "before")
            self.anew()
        else:
            made = None
        ended = self.command(False)
        if ended.status or ended.error or (made and made.error):
            sys.exit(f"{self.job}: {ended} {made}")
        return dataclasses.replace(self, events=ended.events, wanted=(ended.result, contents(self.folder)))

    def moment(self, at: int) -> Moment:
        """End the job at an event, give it again, and compare."""
        self.anew()
        first = self.command(False, at)
        if first.status != _ENDED:
            fine = first.status == 0 and not first.error
            return Moment(at, "", "not reached" if fine else f"never came there: {first.error or first.status}")
        event = first.events[-1]
        if self.twice:
            later = random.Random(at).randrange(len(self.events))
            second = self.command(True, later)
            event += f", then {second.events[-1]}" if second.status == _ENDED else ""
        last = self.command(True)
        if last.status != 0 or last.error:
            said = "stuck" if last.status is None else last.error or f"status {last.status}"
            return Moment(at, event, f"given again: {said}")
        assert self.wanted is not None
        (result, harms), wanted = last.result, self.wanted
        said = [] if result == wanted[0] else ["another result"]
        said += [f"verify: {harm}" for harm in harms] + [unlike(contents(self.folder), wanted[1])]
        return Moment(at, event, ", ".join(filter(None, said)) or "same")


def _serve(moments: Sequence[int] | None, every: int, **of: Any) -> None:
    """In a process whose modules are loaded, and which has computed nothing: each moment in forks of it."""
    load("digits")  # imports what reads them
    gc.freeze()  # forks share what they do not touch
    trial = _Trial(**of).whole()
    count = len(trial.events)
    print(json.dumps({"events": trial.events}), flush=True)
    for at in range(0, count + every, every) if moments is None else [moment % count for moment in moments]:
        print(json.dumps(dataclasses.asdict(trial.moment(at))), flush=True)


# --------------------------------------------------------------------------------------------- callers


@dataclasses.dataclass
class Sweep:
    """The events of a command, and the moments that were tried, as they come."""

    events: list[str]
    moments: Iterator[Moment]


@contextlib.contextmanager
def sweep(
    job: str,
    moments: Sequence[int] | None = None,
    *,
    every: int = 1,
    halves: bool = False,
    twice: bool = False,
    compiled: bool = True,
) -> Iterator[Sweep]:
    """End a job at some of its events, or at every n-th, and give it again.

    Args:
        job: a name of `JOBS`.
        moments: numbers of events, those below 0 from the last; None for every n-th.
        every: that n.
        halves: a write that is its turn is done by half.
        twice: the command that is given again ends at one of its events too, and is given a third time.
        compiled: meet the events of C++ too, where there is a compiler.

    Yields:
        The events of an undisturbed command, and what became of each moment.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name).resolve()
        library = shim(scratch) if compiled else None
        how = dict(moments=moments, every=every, halves=halves, twice=twice)
        words = json.dumps({**how, "job": job, "scratch": str(scratch)})
        environment = {
            **os.environ,
            **({"LD_PRELOAD": str(library)} if library else {}),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(scratch / "compiled")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": str(_SOURCE.parents[1]),
        }
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.crash_points", "--serve", words]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                first = process.stdout.readline()
                if not first:
                    raise RuntimeError(f"{job} did not run, status {process.wait()}")
                found = (Moment(**json.loads(line)) for line in process.stdout)
                yield Sweep(json.loads(first)["events"], found)
            finally:
                process.terminate()


def main() -> None:
    """Try the moments of a job, and say which went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crash_points", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("job", nargs="?", choices=JOBS, default="stored kernel")
    parser.add_argument("--every", type=int, default=1, help="only every n-th event")
    parser.add_argument("--at", type=int, nargs="+", help="only these events; below 0 from the last")
    parser.add_argument("--halves", action="store_true", help="writes are done by half")
    parser.add_argument("--twice", action="store_true", help="the second command ends too")
    parser.add_argument("--no-compiler", action="store_true", help="events of Python alone")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return _serve(**{**args.serve, "scratch": pathlib.Path(args.serve["scratch"])})
    start, wrong = time.monotonic(), 0
    how = dict(every=args.every, halves=args.halves, twice=args.twice, compiled=not args.no_compiler)
    with sweep(args.job, args.at, **how) as found:
        print(f"{args.job}: {len(found.events)} events", flush=True)
        for moment in found.moments:
            wrong += not moment.fine
            print(f"{time.monotonic() - start:7.1f}s {moment.at:4} {moment.event}: {moment.verdict}", flush=True)
    sys.exit(f"{wrong} are not as they should be" if wrong else None)


if __name__ == "__main__":
    main()
