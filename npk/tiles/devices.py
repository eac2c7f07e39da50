"""Tiles through devices: on each one computes while its next inputs come and its last results go."""

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs import x64
from npk.tiles.plan import Device, Tile

Tree = Any
Load = Callable[[Tile, Device], tuple[Tree, Tree]]
_Settings = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """What is done with every tile.

    Attributes:
        skip: whether a tile need not be computed any more.
        load: the two blocks of a tile, on a device.
        kernel: of two blocks.
        keep: check and keep the result; it returns once that is durable.
    """

    skip: Callable[[Tile], bool]
    load: Load
    kernel: Callable[[Tree, Tree], Tree]
    keep: Callable[[Tile, Tree], None]


def devices_of(mesh: jax.sharding.Mesh | None) -> list[Device]:
    """The devices of a mesh that this process reaches; without a mesh the first one.

    Raises:
        ValueError: the mesh has none here.
    """
    if mesh is None:
        return [jax.local_devices()[0]]
    found = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if not found:
        raise ValueError(f"mesh has no device of process {jax.process_index()}: make it of jax.devices().")
    return found


def process_of(mesh: jax.sharding.Mesh | None) -> tuple[int, int]:
    """Which of how many processes this one is, among those that take part."""
    taking_part = sorted({device.process_index for device in (jax.devices() if mesh is None else mesh.devices.flat)})
    return taking_part.index(jax.process_index()), len(taking_part)


def run(work: Work, tiles: Sequence[Tile], devices: Sequence[Device]) -> Generator[tuple[Tile, bool]]:
    """Compute and keep tiles; yields each with whether it was computed here (else it was skipped).

    At most one tile a device is computed and two more wait to be kept. With one device the kernel runs in the
    caller's thread. An error anywhere, and one of the loop that takes the tiles, ends all and is raised here; what
    has been computed by then is still kept, unless that was the error.
    """
    settings = _settings()
    line = _Line(work, tiles, len(devices), settings)

    def on(device: Device) -> None:
        try:
            with settings():
                for _ in line.compute(device, loaders, keepers):
                    pass
        except BaseException as error:  # it ends this thread, and is raised where the tiles are taken
            line.fail(error)

    with (
        concurrent.futures.ThreadPoolExecutor(2, "npk-keep") as keepers,
        concurrent.futures.ThreadPoolExecutor(len(devices), "npk-load") as loaders,
        concurrent.futures.ThreadPoolExecutor(len(devices), "npk-compute") as workers,
    ):
        try:
            if len(devices) > 1:
                list(map(lambda device: workers.submit(on, device), devices))
            else:
                for _ in line.compute(devices[0], loaders, keepers):
                    yield from line.events(wait=False)
            yield from line.events(wait=True)
        finally:
            line.stop.set()


def _settings() -> _Settings:
    """What was set by a context for this thread alone, for another thread."""
    wide, precision = jnp.result_type(float) == jnp.float64, getattr(jax.config, "jax_default_matmul_precision", None)

    @contextlib.contextmanager
    def settings() -> Iterator[None]:
        with x64(wide), jax.default_matmul_precision(precision):
            yield

    return settings


class _Line:
    """The tiles that are left, the room for results, and what has happened."""

    def __init__(self, work: Work, tiles: Sequence[Tile], devices: int, settings: _Settings):
        self.settings = settings
        self.work, self.left, self.lock = work, iter(tiles), threading.Lock()
        self.room = threading.Semaphore(devices + 2)
        self.awaited = len(tiles)
        self.happened: queue.SimpleQueue[tuple[Tile, bool] | BaseException] = queue.SimpleQueue()
        self.stop, self.broken = threading.Event(), threading.Event()

    def events(self, wait: bool) -> Iterator[tuple[Tile, bool]]:
        """What has happened by now, or until all is done; an error is raised."""
        while self.awaited and (wait or not self.happened.empty()):
            event = self.happened.get()
            if isinstance(event, BaseException):
                raise event
            self.awaited -= 1
            yield event

    def fail(self, error: BaseException) -> None:
        self.stop.set()
        self.happened.put(error)

    def next_inputs(self, device: Device) -> tuple[Tile, Tree, Tree] | None:
        """The next tile that is not done, and its inputs; None at the end."""
        with self.settings():
            while not self.stop.is_set():
                with self.lock:
                    tile = next(self.left, None)
                if tile is None:
                    return None
                if not self.work.skip(tile):
                    return tile, *self.work.load(tile, device)
                self.happened.put((tile, False))
        return None

    def compute(
        self, device: Device, loaders: concurrent.futures.Executor, keepers: concurrent.futures.Executor
    ) -> Iterator[None]:
        """Compute tiles on a device until none is left, handing each result on."""
        following = loaders.submit(self.next_inputs, device)
        while (loaded := following.result()) is not None:
            following = loaders.submit(self.next_inputs, device)
            tile, one, two = loaded
            self.room.acquire()
            if self.stop.is_set():
                return
            with jax.default_device(device):
                block = _own(jax.block_until_ready(self.work.kernel(one, two)))
            keepers.submit(self.keep, tile, block)
            yield

    def keep(self, tile: Tile, block: Tree) -> None:
        """Keep a result, and make room for the next one."""
        try:
            if not self.broken.is_set():
                self.work.keep(tile, block)
                self.happened.put((tile, True))
        except BaseException as error:  # as above
            self.broken.set()
            self.fail(error)
        finally:
            self.room.release()


def _own(block: Tree) -> Tree:
    """A kernel in plain Python may use the memory of its result again for the next one."""
    return jax.tree_util.tree_map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, block)
