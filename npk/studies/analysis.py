"""A user's own model and checkpoints: the run folder and the page of a study, for any f and any number of stages."""

import dataclasses
import functools
import html
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from npk.data import MOST_SEED, Dataset, from_arrays
from npk.folders import fingerprint, locked, write_json
from npk.gating import Function, at_lines, gate_kinds
from npk.loading import read_checkpoint
from npk.programs import Selection, check_finite, check_function, check_takes, concrete, paths_of, shown
from npk.studies.fitting import check_kernels
from npk.studies.pages.study_page import write_report
from npk.studies.run_folder import Filling, Progress, Run, carry_out, identity_of, read_study
from npk.studies.samples import check_samples
from npk.studies.settings import MOST_BETA, check_ranges, configuration, setting
from npk.studies.stages import NOTHING, Asked, asked_of, choose, describe, fill_stages, inputs_alone

_LETTERS = 80  # of a checkpoint's name
Checkpoint = PyTree | str | os.PathLike[str] | tuple[str, Any]


@configuration
class AnalysisConfig:
    """How a model is asked at its checkpoints.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from npk.studies import AnalysisConfig
        >>> AnalysisConfig(samples=100).beta
        4.0
    """

    samples: int = setting(240, "Most training samples the kernels are of. Cost: its square.", "Kernels", least=2)
    test_samples: int = setting(500, "Most test samples for the ridge regression.", "Kernels", least=1)
    beta: float = setting(
        4.0, "Steepness of the soft gates in the split, where gates are hard.", "Kernels", above=0, most=MOST_BETA
    )
    seed: int = setting(0, "Of the choice of samples.", "Kernels", least=0, most=MOST_SEED)

    def __post_init__(self) -> None:
        check_ranges(self)


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """What was found of a model at its checkpoints; a notebook shows its page.

    Attributes:
        folder: the run folder.
        content: of its `study.json`: every number.
        report: the page, which needs nothing else.

    Example:
        >>> from pathlib import Path
        >>> from npk.studies import Analysis
        >>> Analysis(Path("run"), {"stages": []}, Path("run/report.html")).report.name
        'report.html'
    """

    folder: Path
    content: dict[str, Any]
    report: Path

    def _repr_html_(self) -> str:
        page = html.escape(self.report.read_text(encoding="utf-8"))
        look = "width:100%;height:48rem;border:0"
        return f'<iframe srcdoc="{page}" title="What the gates know" sandbox="allow-scripts" style="{look}"></iframe>'


def analyse(
    f: Function,
    checkpoints: Sequence[Checkpoint],
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    like: PyTree | None = None,
    at: str | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "your data",
    model: str = "Your model",
    out: str | os.PathLike[str] | None = None,
    config: AnalysisConfig | None = None,
    fixed: Selection = None,
    gate_at: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> Analysis:
    """Ask any model at each of its checkpoints what its gates know: the run folder and the page of `npk study`.

    At each checkpoint: the exact path kernel H, the split K^V + K^F + K^CROSS of its tangent kernel (under soft gates,
    where f has hard ones), gates flipped since the first, alignment with the labels, effective rank, and kernel
    regression with H, each estimate with its interval.

    Args:
        f: a function of (params, x), x: [N, ...] → logits [N, K].
        checkpoints: at least one, in their order: trees of parameters, paths of checkpoint files (`npk.loading`), or
            pairs (name, either).
        x: training samples, of shape (N, ...): floats as f takes them, or whole numbers that are tokens.
        y: their classes, whole numbers from 0 or words, of shape (N,).
        x_test: other samples, for accuracies; None holds out a fifth of x, which the kernels then do not see.
        y_test: their classes.
        like: a tree of the structure of the parameters, which checkpoint files are read into.
        at: the place of the parameters in a file, as of `npk.loading.read_checkpoint`.
        class_names: what class 0, 1, … is called.
        title: what to call the data on the page.
        model: what to call the model.
        out: the run folder, new or empty unless resuming; None is a temporary one, which goes with the result.
        config: how many samples the kernels are of, and their seed; None is `AnalysisConfig()`.
        fixed: as of `path_kernel`.
        gate_at: as of `gates`.
        resume: continue an interrupted analysis of the same model, checkpoints and data in `out`; or one that has the
            first of these checkpoints, to which the others are added.
        progress: called with the fraction done and what is being done.

    Returns:
        An `Analysis`: the folder, its numbers, its page.

    Raises:
        TypeError: f is no function of (params, x), or checkpoints are no list.
        ValueError: a checkpoint does not fit; shapes or labels do not fit f; `out` holds another analysis.
        FileExistsError: `out` holds something, and `resume` is not set.
        UnsupportedOperation: f has no path kernel; `npk.explain(f)(params, x)` shows why.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from npk.studies import analyse
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 3)), jnp.arange(40) % 2
        >>> p = {"w": jnp.eye(3), "v": jnp.ones((3, 2))}
        >>> analyse(f, [p], x, y).content["stages"][0]["effective_rank"]["npk"] > 1
        True

    Source: Lakshminarayanan & Singh 2020, sections 4 to 6 (what H and the split measure of a trained network).
    """
    check_function(f, "analyse", "{name}({f}, [params], x, y)")
    config = config or AnalysisConfig()
    if not isinstance(config, AnalysisConfig):
        raise TypeError(f"config must be an AnalysisConfig(samples=…), got {type(config).__name__}.")
    if not concrete(checkpoints, x, y):
        raise TypeError("checkpoints, x or y are being traced: call analyse outside jit, with numbers.")
    data = from_arrays(x, y, x_test, y_test, class_names=class_names, name="data", title=title, seed=config.seed)
    data = dataclasses.replace(data, x_train=_of_jax(data.x_train), x_test=_of_jax(data.x_test))
    check_samples(config.samples, data)
    named = list(_named(checkpoints, like, at))
    prints = _fingerprints(named)
    filling = _filling(f, named, prints, data, config, model, fixed, tuple(gate_at))
    described = {"model": model, "checkpoints": list(prints), **dataclasses.asdict(config)}
    folder = Path(tempfile.mkdtemp(prefix="npk-") if out is None else out)
    if resume:
        _extend(folder, described, filling.identity)
    nothing = {**NOTHING, "names": described["checkpoints"]}
    say = progress or (lambda fraction, text: None)
    try:
        content = carry_out("study", described, folder, nothing, lambda: filling, resume=resume, progress=say)
        say(1.0, "drawing the report")
        found = Analysis(folder, content, write_report(folder))
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _filling(
    f: Function,
    named: Sequence[tuple[str, Callable[[], PyTree]]],
    prints: dict[str, str],
    data: Dataset,
    config: AnalysisConfig,
    model: str,
    fixed: Selection,
    gate_at: tuple[str, ...],
) -> Filling:
    """What an analysis is of, and what computes it."""
    first = named[0][1]()
    _check_outputs(f, first, data, named[0][0])
    asked = _asked(f, first, data, config.beta, fixed, gate_at)
    check_kernels("samples", config.samples, min(config.samples, len(data.x_train)) ** 2, 5 * 4 + 8)
    network = {"kind": model, "beta": asked.beta, "parameters": _size(first)}
    identity = identity_of({data.title: data.fingerprint}, **asked.programs(first, data.x_train[:1]))

    def fill(run: Run) -> None:
        samples = choose(data, config.samples, config.test_samples, config.seed, run)
        if run.content["data"] is None or not run.has("inputs.npz"):
            run.set(data=describe(data, samples), network=network, pixels=inputs_alone(samples, run))
        reads = [read for _, read in named]
        fill_stages(run, asked, reads, [{} for _ in reads], data, samples, run.between(0.05, 0.95))

    return Filling({**identity, "checkpoints": prints, "fixed": _shown(fixed), "gate_at": list(gate_at)}, fill)


def _fingerprints(named: Sequence[tuple[str, Callable[[], PyTree]]]) -> dict[str, str]:
    """Name → hash of its numbers; all must be finite, and of the structure and shapes of the first."""
    prints, first = {}, None
    for name, read in named:
        params = read()
        found = {path: np.shape(leaf) for path, leaf in zip(paths_of(params), jax.tree_util.tree_leaves(params))}
        first = first or found
        if found != first:
            differ = next(path for path in {**first, **found} if first.get(path) != found.get(path))
            shapes = [list(side[differ]) if differ in side else "nothing" for side in (found, first)]
            raise ValueError(
                f"{name} is no checkpoint of the model of {named[0][0]}: {differ or 'the array'} is {shapes[0]} here "
                f"and {shapes[1]} there. (Of an NNX or Equinox model give npk.loading.params_of(model).)"
            )
        check_finite(params, name)
        prints[name] = fingerprint(params)
    return prints


def _extend(folder: Path, described: dict[str, Any], identity: Mapping[str, Any]) -> None:
    """Let an analysis of the first of these checkpoints, and else the same, go on with the others."""
    if not (folder / "study.json").is_file():
        return
    with locked(folder):
        there, whole = read_study(folder), json.loads(json.dumps(dict(identity)))
        before, names = there["config"].get("checkpoints"), described["checkpoints"]
        if not isinstance(before, list) or not 0 < len(before) < len(names) or names[: len(before)] != before:
            return
        some = {**whole, "checkpoints": {name: whole["checkpoints"][name] for name in before}}
        if there["config"] != {**described, "checkpoints": before} or there["identity"] != some:
            return  # of another model, data or numbers: it is refused, and left as it is
        there.update(config=described, names=names, identity=whole, finished=False)
        write_json(folder / "study.json", there)


def _named(
    checkpoints: Sequence[Checkpoint], like: PyTree | None, at: str | None
) -> Iterator[tuple[str, Callable[[], PyTree]]]:
    """Name and parameters of each checkpoint; a file is read when it is asked for, so that one is held at a time."""
    if not isinstance(checkpoints, list | tuple) or not checkpoints:
        what = "none" if isinstance(checkpoints, list | tuple) else type(checkpoints).__name__
        raise TypeError(
            f"checkpoints must be a list of trees of parameters or of files, at least one, got {what}: [params], or "
            "[(name, params), …]."
        )
    if isinstance(checkpoints, tuple) and isinstance(checkpoints[0], str):
        raise TypeError("checkpoints must be a list, of which one may be a pair: [(name, params)].")
    given = [_pair(number, one) for number, one in enumerate(checkpoints)]
    names = [name for name, _ in given]
    if odd := [name for name in names if not (name.isprintable() and 0 < len(name) <= _LETTERS)]:
        raise ValueError(
            f"names of checkpoints must be of 1 to {_LETTERS} characters that can be shown, got {odd[0]!r:.99}."
        )
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two checkpoints are called {again!r}: give them as pairs (name, checkpoint).")
    for name, one in given:
        if not isinstance(one, str | os.PathLike):
            yield name, functools.partial(_same, one)
        elif like is None:
            raise ValueError(f"{one} is a file: give like=, a tree of the structure of the parameters.")
        else:
            yield name, functools.partial(read_checkpoint, Path(one), like, at=at)


def _pair(number: int, given: Checkpoint) -> tuple[str, Any]:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        return given
    if isinstance(given, str | os.PathLike):
        return Path(given).stem or str(given), given
    return f"checkpoint {number + 1}", given


def _of_jax(x: np.ndarray) -> np.ndarray:
    """In the dtype that JAX gives it: of 64 bits it may have none, and would say so at every call."""
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def _same(value: Any) -> Any:
    return value


def _asked(f: Function, params: PyTree, data: Dataset, beta: float, fixed: Selection, gate_at: Sequence[str]) -> Asked:
    """What is asked of f; the split is under soft gates only where f has hard ones."""
    kinds = gate_kinds(at_lines(f, gate_at), params, data.x_train[:1])
    asked = asked_of(f, beta if "hard" in kinds else None, fixed=fixed, gate_at=gate_at)
    asked.path_kernel.engines(params, data.x_train[:1])  # type: ignore[attr-defined]  # refuses what has no path kernel
    if not kinds:
        raise ValueError("f has no gates: it is linear in x, and there is nothing that they could know.")
    return asked


def _check_outputs(f: Function, params: PyTree, data: Dataset, name: str) -> None:
    """Refuse, with a ValueError, parameters that f does not take, and logits that are not one a class."""
    x, classes = data.x_train[:1], len(data.class_names)
    out = check_takes(f, params, x, f"{name} and x {list(x.shape)}")
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < classes:
        found = type(out).__name__ if shape is None else list(shape)
        one = shape is not None and shape[1:] == (1,)
        more = " Of one logit for two classes f may return jnp.concatenate([-f, f], axis=1)." if one else ""
        raise ValueError(
            f"f must return one array with a logit for each of the {classes} classes of y, [N, {classes}], and returns "
            f"{found} for one sample.{more}"
        )


def _size(params: PyTree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(params))


def _shown(fixed: Selection) -> Any:
    """What is declared to be fixed numbers, as text; of a predicate its name."""
    if fixed is None or isinstance(fixed, str):
        return fixed
    return getattr(fixed, "__qualname__", repr(fixed)) if callable(fixed) else sorted(fixed)
