"""What the end of a network must be for one set of path features to serve all its outputs."""

from typing import Any

from npk.paths.layers import Layer
from npk.paths.terms import Base, Term
from npk.paths.walk import State, Walk
from npk.programs import Equation

OWN_FEATURES = (
    "the output units of f have different path features (a gate, a factor or the input itself acts on them one by "
    "one), so there is no one NPK. Let f end in a weight layer, or select one output: lambda p, x: f(p, x)[:, k:k+1]."
)


def alike(term: Term) -> bool:
    """Whether all output units have the factors of a term alike, and read its base alike."""
    return term.shape[-1] == 1 or not _depends(term, set(term.dims(len(term.shape) - 1)))


def _depends(term: Term, dims: set[int]) -> bool:
    """Whether the features of a term depend on some of its dims: by its factors, or by the place of its base."""
    if any(term.g.shape[d] > 1 for d in dims):
        return True
    reads = enumerate(zip(term.index, term.base.axes, strict=True))
    return any(_differs(term.base, number) for number, (i, axis) in reads if axis.size > 1 and dims & set(i.dims))


def _differs(base: Base, axis: int) -> bool:
    """Whether the elements along an axis of a base have different features, and not only weights of their own."""
    if not base.axes[axis].independent:
        return True
    # A layer of groups reads something else for each of them.
    return isinstance(base, Layer) and axis < base.n_batch and any(_depends(t, set(t.dims(axis))) for t in base.inputs)


def check_end(walk: Walk, output: State) -> None:
    """Of a normalisation that ends f, a bias is a fixed number, which is each output's own."""
    source = [t for t in output if t.base is walk.source and t.shape[-1] > 1]
    if not any(t.g.shape[d] > 1 for t in source for d in t.dims(len(t.shape) - 1)):
        return
    made_by: dict[Any, Equation] = {v: e for e in walk.program.equations for v in e.outputs}
    at, met = walk.program.outputs[0], []
    while at in made_by and (made_by[at] in walk.normalising or made_by[at].name in walk.moves):
        met.append(made_by[at])
        at = next(a for a in met[-1].inputs if walk.is_data(a))
    reading = [(e, a) for e in met for a in e.inputs if walk.is_parameter(a)]
    if len(reading) > 1:
        equation, scale = next(((e, a) for e, a in reading if e.name == "div"), reading[0])
        others = sorted({walk.made_of(a) for _, a in reading} - {walk.made_of(scale)})
        raise walk.refuse(
            equation,
            f"{walk.made_of(scale)} scales the outputs as a normalisation does, whose parameters are fixed numbers: "
            f"{', '.join(others)} then adds a number of its own to each output, and there is no one NPK. Declare a "
            f"temperature, and nothing else, to be fixed: fixed={walk.named(scale)}; or select one output: "
            "lambda p, x: f(p, x)[:, k:k+1].",
        )
