"""Points labelled by a known function: where its labels jump is known, so what a network learns can be checked."""

import numpy as np
from jaxtyping import Float

from npk.data.dataset import Dataset, check_seed


def cob_odt(
    seed: int, samples: int, dimensions: int, depth: int = 4, *, test_samples: int | None = None, margin: float = 0.0
) -> Dataset:
    """Points on the unit sphere, labelled by a complete orthogonal balanced oblique decision tree (COB-ODT).

    Node i sends a point x to its child 2i + 1 + 1{⟨wᵢ, x⟩ > 0}; the 2^depth - 1 hyperplanes wᵢ are orthonormal and go
    through the origin. Sibling leaves have different labels: a point's class is the side it takes at its last node.
    Every leaf, and so every class, is equally probable. The hyperplanes are `cob_odt_hyperplanes` of the same seed.

    Args:
        seed: of the hyperplanes and of the points.
        samples: training points.
        dimensions: of the space, at least 2^depth - 1.
        depth: nodes on the way to a leaf.
        test_samples: test points; None is as many as training points.
        margin: points no further than this from any hyperplane are not used.

    Returns:
        Points of shape (samples, dimensions) and classes 0, 1. The published sets have 20,000 training points in 20
        dimensions ("cob_odt_20") and 30,000 in 100 ("cob_odt_100"), and depth 4.

    Raises:
        ValueError: too few dimensions for the depth, a size below 1, a margin that almost no point keeps, or a seed
            that is no whole number from 0 to 2³² - 1.

    Example:
        >>> from npk import data
        >>> points = data.cob_odt(0, samples=100, dimensions=20)
        >>> points.x_train.shape, points.x_test.shape, points.class_names
        ((100, 20), (100, 20), ('0', '1'))

    Source:
        Banerjee, Ramaswamy, Yadav & Lakshminarayanan, "Deep networks learn features from local discontinuities in the
        label function" (2025). Its published generator draws hyperplanes that are orthogonal only on average; these
        are orthogonal, as the paper defines them.
    """
    test_samples = samples if test_samples is None else test_samples
    if min(samples, test_samples) < 1 or not margin >= 0:
        raise ValueError(
            f"samples and test_samples must be at least 1, margin at least 0; got {samples}, {test_samples}, {margin}."
        )
    w = cob_odt_hyperplanes(seed, dimensions, depth)
    # A stream of its own: the points do not depend on how many hyperplanes were drawn.
    points = _sphere(np.random.default_rng((seed, 1)), samples + test_samples, w, margin)
    sides = (points.astype(np.float64) @ w.T > 0).astype(np.int32)
    node = np.zeros(len(points), np.int64)
    for _ in range(depth - 1):
        node = 2 * node + 1 + sides[np.arange(len(points)), node]
    labels = sides[np.arange(len(points)), node]
    name = f"cob_odt_{dimensions}"
    return Dataset(
        name=name,
        x_train=points[:samples],
        y_train=labels[:samples],
        x_test=points[samples:],
        y_test=labels[samples:],
        class_names=("0", "1"),
        source=f"points on the unit sphere, labelled by an oblique decision tree of depth {depth}",
        title=f"COB-ODT, {dimensions} dimensions",
    )


def cob_odt_hyperplanes(seed: int, dimensions: int, depth: int = 4) -> Float[np.ndarray, "nodes dimensions"]:
    """The orthonormal hyperplanes at the inner nodes of a COB-ODT: where its label function is discontinuous.

    Args:
        seed: as given to `cob_odt`.
        dimensions: of the space, at least 2^depth - 1.
        depth: nodes on the way to a leaf.

    Returns:
        Unit normals, of shape (2^depth - 1, dimensions): row 0 is the root, rows 2i + 1 and 2i + 2 the children of i.

    Raises:
        ValueError: the depth is below 1, there are too few dimensions for it, or the seed is no whole number from 0
            to 2³² - 1.

    Example:
        >>> import numpy as np
        >>> from npk import data
        >>> w = data.cob_odt_hyperplanes(0, 20)
        >>> w.shape, bool(np.allclose(w @ w.T, np.eye(15)))
        ((15, 20), True)
    """
    check_seed(seed)
    nodes = 2**depth - 1
    if depth < 1 or dimensions < nodes:
        raise ValueError(
            f"a tree of depth {depth} ≥ 1 has {nodes} orthonormal hyperplanes and needs as many dimensions, "
            f"got {dimensions}."
        )
    q, r = np.linalg.qr(np.random.default_rng((seed, 0)).standard_normal((dimensions, nodes)))
    # QR fixes signs by its own rule; with the signs of r's diagonal taken out, every rotation is equally probable.
    return (q * np.sign(np.diagonal(r))).T


def _sphere(
    generator: np.random.Generator, count: int, w: Float[np.ndarray, "nodes d"], margin: float
) -> Float[np.ndarray, "n d"]:
    """Uniform points on the unit sphere, each further than the margin from every hyperplane."""
    kept: list[np.ndarray] = []
    while (found := sum(map(len, kept))) < count:
        x = generator.standard_normal((max(count, 1024), w.shape[1]))
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        x = x[np.abs(x.astype(np.float64) @ w.T).min(axis=1) > margin]
        if 1000 * len(x) < count:
            raise ValueError(f"margin {margin} leaves fewer than 1 in 1000 points of the sphere: choose a smaller one.")
        kept.append(x[: count - found])
    return np.concatenate(kept)
