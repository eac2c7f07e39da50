"""The main job: train a network, stop at stages, and ask at each what its gates have learned.

At each stage the exact path kernel H of the network's gates, and the split K^V + K^F + K^CROSS of the
tangent kernel of the same parameters with soft gates, are computed on a class-ordered part of the
training set. A run folder holds everything:

    study.json            configuration, versions, every number; written anew as each stage ends
    parameters.npz        the parameters at the stages
    samples.npz           which samples the kernels are of, and small images of some
    inputs.npz            what the inputs alone say
    kernels/stage-S.npz   the arrays of stage S

`pages.study_page` draws it.
"""

import dataclasses
import os
import time
from typing import Any

import jax
import optax

from npk import networks, training
from npk.data import MOST_SEED, NAMES, Dataset
from npk.studies.fitting import check_kernels
from npk.studies.run_folder import Filling, Progress, Run, carry_out, identity_of
from npk.studies.samples import load_suited
from npk.studies.settings import MOST_BETA, MOST_DEPTH, MOST_RATE, MOST_WIDTH, check_ranges, configuration, setting
from npk.studies.stages import NOTHING, choose, describe, fill_stages, inputs_alone
from npk.studies.studied_network import StudiedNetwork, build
from npk.studies.study_regimes import compared, regime_names
from npk.training import MOST_EPOCHS, SNAPSHOTS, Network, check_course


@configuration
class StudyConfig:
    """Everything that determines a study's numbers.

    The samples that kernels are of are balanced over the classes; the regression is scored on such test samples.

    Raises:
        ValueError: a number is out of its range, or a data set or network unknown.

    Example:
        >>> from npk.studies import StudyConfig
        >>> StudyConfig(width=64).dataset
        'digits:0-4,5-9'
    """

    dataset: str = setting(
        "digits:0-4,5-9",
        f"One of {', '.join(NAMES)}; or classes of it, as in mnist:4,7, or groups of them. See `npk data list`.",
        "Data",
        among=NAMES,
        parts=True,
    )
    network: str = setting("mlp", f"One of {', '.join(networks.NAMES)}.", "Network", among=networks.NAMES)
    width: int | None = setting(
        None, "Units or channels of the first layer.", "Network", none="the network's", least=1, most=MOST_WIDTH
    )
    depth: int | None = setting(
        None,
        "Weight layers (mlp, resnet), or layers (mixer, vit).",
        "Network",
        none="the network's; of mlp 6",
        least=2,
        most=MOST_DEPTH,
    )
    use_bias: bool = setting(False, "Layers with biases.", "Network", flag="bias")
    seed: int = setting(0, "Of parameters, sample order and splits.", "Training", late=1, least=0, most=MOST_SEED)
    epochs: int = setting(40, "Passes over the training set.", "Training", least=1, most=MOST_EPOCHS)
    batch_size: int = setting(64, "Samples a gradient step.", "Training", least=1)
    learning_rate: float = setting(1e-3, "Of Adam.", "Training", above=0, most=MOST_RATE)
    beta: float = setting(4.0, "Steepness of the soft gates in the split.", "Kernels", above=0, most=MOST_BETA, late=1)
    samples: int = setting(
        240,
        "Most training samples the kernels are of. Cost: its square, and with pooling that of the positions.",
        "Kernels",
        least=1,
    )
    test_samples: int = setting(500, "Most test samples for the ridge regression.", "Kernels", least=1)
    stages: int = setting(
        7, "How many stages, the initial and the trained one included.", hidden=True, least=2, most=SNAPSHOTS
    )
    regimes: bool = setting(True, "Train random, learned and trained gates beside the network.", "Training", late=2)

    def __post_init__(self) -> None:
        check_ranges(self)


def run_study(
    config: StudyConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a study into a folder, or finish one that was interrupted there.

    Each stage is written as it ends, so that an interruption at any moment loses at most one; resuming gives the
    numbers that an uninterrupted run gives on the same machine and versions.

    Args:
        config: what to do.
        out: the run folder; it must be new or empty, unless resuming.
        resume: continue the study of the same configuration in `out`.
        data_dir: where prepared data sets lie, see `npk.data.load`.
        progress: called with the fraction done and what is being done.

    Returns:
        The content of `study.json`.

    Raises:
        FileExistsError: `out` holds a study and `resume` is not set, or it holds something else.
        ValueError: the study in `out` has another configuration, or the configuration does not suit the data.

    Example:
        >>> import tempfile
        >>> from npk.studies import StudyConfig, run_study
        >>> small = dict(samples=20, test_samples=20, stages=2, regimes=False)
        >>> config = StudyConfig(width=8, depth=2, epochs=1, **small)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = run_study(config, folder)
        >>> len(study["stages"]), study["finished"]
        (2, True)
    """

    def prepare() -> Filling:
        data = load_suited(config, data_dir)
        check_course(len(data.x_train), config.epochs, config.batch_size, config.stages)
        # Five kernels, and in double precision the one whose spectrum is taken.
        check_kernels("samples", config.samples, min(config.samples, len(data.x_train)) ** 2, 5 * 4 + 8)
        model = build(config, data)
        identity = identity_of({config.dataset: data.fingerprint}, **model.programs(data.x_train[:1]))
        return Filling(identity, lambda run: _fill(config, model, data, run))

    nothing = {**NOTHING, "names": [f"stage {stage}" for stage in range(config.stages)]}
    return carry_out("study", dataclasses.asdict(config), out, nothing, prepare, resume=resume, progress=progress)


def _fill(config: StudyConfig, model: StudiedNetwork, data: Dataset, run: Run) -> None:
    stages = _trained_stages(config, model, data, run)
    samples = choose(data, config.samples, config.test_samples, config.seed, run)
    if run.content["data"] is None or not run.has("inputs.npz"):
        run.set(data=describe(data, samples), pixels=inputs_alone(samples, run))
    known, progress = run.content["training"]["stages"], run.between(0.15, 0.6 if config.regimes else 1.0)
    fill_stages(run, model.asked, [lambda stage=stage: stage for stage in stages], known, data, samples, progress)
    if config.regimes:
        _compare_regimes(config, model, stages, data, run)


def _trained_stages(config: StudyConfig, model: StudiedNetwork, data: Dataset, run: Run) -> list[Any]:
    """The variables at each stage: from the run folder where training has ended, else by training."""
    before = run.content["training"]
    if before is None or not run.has("parameters.npz"):
        start = time.perf_counter()
        run.progress(0.0, "training")
        trained = training.train(
            model.module.apply,
            model.variables,
            data.x_train,
            data.y_train,
            key=jax.random.fold_in(jax.random.key(config.seed), 1),
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=optax.adam(config.learning_rate),
            stages=config.stages,
            forward=model.forward,
            on_record=lambda r: run.progress(
                0.15 * r.epoch / config.epochs, f"training: accuracy {r.train_accuracy:.0%}"
            ),
        )
        named = {f"stage-{s}/{k}": v for s, tree in enumerate(trained.stages) for k, v in _named(tree).items()}
        run.write("parameters.npz", **named)
        told = {
            "stages": [dataclasses.asdict(record) for record in trained.records],
            "history": [dataclasses.asdict(record) for record in trained.history],
            "seconds": time.perf_counter() - start,
        }
        if before is not None and before["stages"] != told["stages"]:  # another machine: all that follows is anew
            run.set(stages=[], regimes=[])
        run.set(network=model.describe(), training=told)
    structure, arrays = jax.tree_util.tree_structure(model.variables), run.read("parameters.npz")
    leaves = [[arrays[f"stage-{s}/{k}"] for k in _named(model.variables)] for s in range(config.stages)]
    return [jax.tree_util.tree_unflatten(structure, stage) for stage in leaves]


def _compare_regimes(config: StudyConfig, model: StudiedNetwork, stages: list[Any], data: Dataset, run: Run) -> None:
    """Add the regimes to the study, each written as it ends."""
    options = {name: getattr(config, name) for name in ("epochs", "batch_size", "learning_rate", "beta")}
    network = Network(model.module.apply, model.module.init, model.forward)
    count = len(regime_names(config.stages))

    def say(number: int, text: str) -> None:
        run.progress(0.6 + 0.4 * number / count, text)

    for row in compared(network, stages, data, config.seed, options, len(run.content["regimes"]), say):
        run.add("regimes", row)


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
