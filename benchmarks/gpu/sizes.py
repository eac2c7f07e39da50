"""How large every part is: whole on a GPU, about a hundredth of it on a CPU."""

import dataclasses

from benchmarks.infinite import Case, gap, mlp

# In order of value, with the seconds after which no new case of a part begins: what they leave over is the reserve.
SECONDS = {
    "correctness": 150.0,
    "ntk": 90.0,
    "dense": 45.0,
    "convolution": 75.0,
    "infinite": 45.0,
    "training": 45.0,
    "memory": 30.0,
}


@dataclasses.dataclass(frozen=True)
class Tangents:
    """A network of `benchmarks.gpu.tangents` and its inputs."""

    network: str
    inputs: tuple[int, ...]
    outputs: int
    width: int


@dataclasses.dataclass(frozen=True)
class Slab:
    """Pairs of images under one network of convolutions with pooling."""

    image: tuple[int, int, int]
    channels: int
    padding: str
    rows: int
    columns: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured, and how often."""

    name: str
    repeats: int
    architectures: tuple[str, ...] | None  # None: all of them
    share: int  # one in so many kernels of each of them
    tangents: tuple[Tangents, ...]
    product: int  # side of the matrix products that the ceilings are of
    elements: int  # numbers of the elementwise ceilings
    inputs: int  # of all pairs, each of `features`
    features: int
    width: int
    tile: int
    slabs: tuple[Slab, ...]
    infinite: dict[str, Case]
    regimes: tuple[str, ...]
    samples: int
    epochs: int
    trained: tuple[int, int]  # width and depth of what is trained


FULL = Sizes(
    name="whole",
    repeats=5,
    architectures=None,
    share=1,
    tangents=tuple(
        Tangents(network, inputs, outputs, width)
        for outputs in (1, 10)
        for network, inputs, width in (
            ("MLP", (256, 784), 512),
            ("C4GAP", (64, 16, 16, 3), 64),
            ("ResNet-20", (32, 32, 32, 3), 16),
        )
    ),
    product=8192,
    elements=1 << 26,
    inputs=60_000,
    features=784,
    width=128,
    tile=7_500,
    slabs=tuple(Slab((32, 32, 3), c, p, 256, 2048) for c in (64, 128, 96) for p in ("SAME", "CIRCULAR")),
    infinite={
        "conv × 4, GAP, 32×32": gap(4, 32, 8),
        "conv × 4, GAP, 16×16": gap(4, 16, 24),
        "dense × 3": mlp(3),
        "conv × 2, circular, biases, GAP, 16×16": gap(2, 16, 24, bias=True, padding="CIRCULAR"),
    },
    regimes=("ReLU", "DL", "DLGN", "FR-II", "FR-DI", "FL", "DLGN-SF"),
    samples=20_000,
    epochs=6,
    trained=(128, 6),
)

SMALL = Sizes(
    name="small, on a CPU",
    repeats=2,
    architectures=("convolution, circular", "scan", "DGN, soft gates"),
    share=4,
    tangents=(Tangents("MLP", (16, 64), 2, 32),),
    product=512,
    elements=1 << 18,
    inputs=600,
    features=784,
    width=128,
    tile=200,
    slabs=(Slab((6, 6, 3), 8, "SAME", 4, 16),),
    infinite={"conv, GAP, 8×8": gap(1, 8, 3)},
    regimes=("DL",),
    samples=200,
    epochs=3,
    trained=(16, 3),
)
