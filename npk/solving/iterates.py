"""Where a kernel regression by conjugate gradients stands: what its callback is given, and what it goes on from."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from npk.folders import read_arrays, write_arrays
from npk.programs import shown
from npk.solving import conjugate_gradients


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Iterate:
    """What conjugate gradients have after some passes: a checkpoint, once it is saved.

    Attributes:
        products: passes over the kernel so far.
        regularizations: as they were given.
        duals: coefficients of the training samples, one array [N, K] a regularization.
        residuals: by recursion, ‖b - A x‖/‖b‖ of every output, one array [K] a regularization.
        progress: what `start` needs to continue as if never interrupted.

    Example:
        >>> import numpy as np
        >>> from npk.solving import kernel_ridge
        >>> seen = []
        >>> fit = kernel_ridge(np.diag([1.0, 2, 3]), np.eye(3), method="cg", rank=0, callback=seen.append)
        >>> seen[0].products, seen[0].duals[0].shape
        (1, (3, 3))
    """

    products: int
    regularizations: tuple[float, ...]
    duals: tuple[np.ndarray, ...]
    residuals: tuple[np.ndarray, ...]
    progress: conjugate_gradients.Progress

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to an NPZ file, whole, with a checksum.

        Args:
            path: of the file; one that is there is replaced once the new one is whole.
        """
        arrays = {"products": self.products, "regularizations": np.array(self.regularizations)}
        for name, values in (("dual", self.duals), ("residual", self.residuals)):
            arrays |= {f"{name}.{number}": value for number, value in enumerate(values)}
        write_arrays(Path(path), arrays | self.progress.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Iterate":
        """Read what `save` wrote. Nothing in the file is run.

        Args:
            path: of the file.

        Returns:
            The iterate, bit for bit.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds something else.
        """
        arrays = read_arrays(Path(path))
        try:
            regularizations = tuple(arrays["regularizations"].tolist())
            duals, residuals = (
                tuple(arrays[f"{name}.{number}"] for number in range(len(regularizations)))
                for name in ("dual", "residual")
            )
            progress = conjugate_gradients.Progress.of_arrays(arrays, len(regularizations))
            return cls(int(arrays["products"]), regularizations, duals, residuals, progress)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no iterate of a kernel regression ({error}).") from error
