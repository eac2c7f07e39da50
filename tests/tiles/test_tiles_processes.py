"""Stores filled by processes that are killed, by several at once, and by many devices: always the same bytes."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("tile_worker.py")
TILES = {(i, j) for i in range(10) for j in range(i, 10)}
CHUNKS = 100
BESIDE = 2  # the description of the store, and the list of its chunks
IN_FLIGHT = 3  # tiles of a process that were written and not yet noted when it was killed


def start(**options):
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(WORKER), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in out.splitlines()]


def chunks(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(("__lock", "part"))}


def number_of_chunks(folder):
    return (
        sum(name.startswith("c.") and not name.endswith("__lock") for name in os.listdir(folder))
        if folder.exists()
        else 0
    )


def wait_for_chunks(folder, number, *processes):
    for _ in range(6000):
        if number_of_chunks(folder) >= number:
            return
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.01)
    raise AssertionError("no tiles were written")


def kill(process):
    process.kill()
    process.communicate()


def not_done(folder):
    """The tiles of which a chunk is missing."""
    return sorted((i, j) for i, j in TILES if not all((folder / f"c.{a}.{b}").exists() for a, b in ((i, j), (j, i))))


def tiles_of(report):
    return [tuple(tile) for tile in report["computed"]]


def goes_on(report, missing, in_flight=IN_FLIGHT):
    """Whether one tile that is there was computed again, to compare it, then what is missing and little else."""
    first, *computed = tiles_of(report)
    return first not in missing and set(missing) <= set(computed) and len(computed) <= len(missing) + in_flight


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The chunks of a run that nothing happened to, on one device of eight, and where 4 and 8 share the tiles."""
    folder = tmp_path_factory.mktemp("whole") / "k"
    reports = finish(start(folder=str(folder), devices=8, meshes=[1, 4, 8], pause=0.01))
    return {size: (chunks(Path(f"{folder}-{size}")), report) for size, report in zip((1, 4, 8), reports, strict=True)}


@pytest.mark.parametrize("devices", [4, 8])
def test_many_devices_give_the_numbers_of_one(whole, devices):
    alone, report = whole[1]
    assert len(report["devices"]) == 1 and sorted(tiles_of(report)) == sorted(TILES)
    spread, report = whole[devices]
    assert len(report["devices"]) == devices and sorted(tiles_of(report)) == sorted(TILES)
    assert len(alone) == CHUNKS + BESIDE and spread == alone


def test_a_run_that_is_killed_goes_on(tmp_path, whole):
    folder = tmp_path / "k"
    for number in (5, 40):
        process = start(folder=str(folder), pause=0.05)
        wait_for_chunks(folder, number, process)
        kill(process)
    missing = not_done(folder)
    (report,) = finish(start(folder=str(folder)))
    assert chunks(folder) == whole[1][0]
    assert missing and goes_on(report, missing, 2 * IN_FLIGHT)


def test_a_limit_of_the_disk_is_told_and_loses_nothing(tmp_path, whole):
    """The system's own limit on files: as on a full disk, a chunk can be written by half only."""
    folder = tmp_path / "k"
    process = start(folder=str(folder), limit=50)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    found = re.search(r"the disk is full \(File too large\); (\d+) of 55 tiles are kept, and safe. Make room", errors)
    assert found and 0 < int(found.group(1)) <= len(TILES) - len(not_done(folder))
    (report,) = finish(start(folder=str(folder)))
    assert chunks(folder) == whole[1][0] and len(report["computed"]) == 1 + len(TILES) - int(found.group(1))


def test_two_processes_that_do_not_know_of_each_other_share_one_store(tmp_path, whole):
    folder = tmp_path / "k"
    both = [start(folder=str(folder), pause=0.1) for _ in range(2)]
    reports = [finish(process)[0] for process in both]
    assert chunks(folder) == whole[1][0]
    assert set(itertools.chain(*map(tiles_of, reports))) == TILES


def distributed(folder, pause):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            folder=str(folder),
            pause=pause,
            distributed={"coordinator_address": address, "num_processes": 2, "process_id": i},
        )
        for i in range(2)
    ]


def test_two_processes_of_jax_distributed_share_one_store(tmp_path, whole):
    folder = tmp_path / "k"
    reports = [finish(process)[0] for process in distributed(folder, 0.05)]
    assert chunks(folder) == whole[1][0]
    assert sorted(report["process"] for report in reports) == [0, 1]
    assert set(itertools.chain(*map(tiles_of, reports))) == TILES
    every = [(i, j) for i in range(10) for j in range(i, 10)]
    for report in reports:
        own = set(every[report["process"] :: 2])
        computed = tiles_of(report)
        first_of_others = next((k for k, tile in enumerate(computed) if tile not in own), len(computed))
        assert first_of_others > 0 and not own & set(computed[first_of_others:])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_of_jax_distributed_loses_its_unfinished_tiles_only(tmp_path, whole, lost):
    """JAX ends the others when the coordinator (process 0) is gone; one that loses process 1 computes all there is."""
    folder = tmp_path / "k"
    both = distributed(folder, 0.2)
    wait_for_chunks(folder, 20, *both)
    kill(both[lost])
    if lost == 0:
        both[1].communicate(timeout=200)
        assert both[1].returncode != 0 and 20 <= number_of_chunks(folder) < CHUNKS
    else:
        wait_for_chunks(folder, CHUNKS)
        kill(both[0])  # it would wait for the lost one until the heartbeat's time is out
    missing = not_done(folder)
    (report,) = finish(start(folder=str(folder)))
    assert chunks(folder) == whole[1][0]
    assert goes_on(report, missing) if len(missing) < len(TILES) else sorted(tiles_of(report)) == missing
