"""Random networks, each spelled at random, against a dictionary of their paths; no XLA program is compiled for them.

`NPK_EXAMPLES` says how many networks are drawn, `NPK_SEED` from which on. A failure shows the smallest network found to
fail alike, as a function that can be run as it stands.
"""

import collections
import itertools
import os
import re

import blocks
import numpy as np
import pytest
from checking import alike, check, smallest
from numpy_in_place import numpy_in_place
from oracles import dictionary as paths
from tolerances import assert_close

import npk

EXAMPLES = int(os.environ.get("NPK_EXAMPLES", "160"))
FIRST = int(os.environ.get("NPK_SEED", "0"))
PARTS = 4

pytestmark = pytest.mark.usefixtures("x64")

# What lies outside the rules, by what is said; anything else is a failure.
REFUSALS = (
    "the output units of f have different path features",
    "given its gates f is not linear",  # a number added to a soft activation: 1 + tanh(q)
    "scales the outputs as a normalisation does",  # with a number that is each output's own
    "vmap: ",  # writes a mask and the values it is for in another order each
)


def failure(network, seed):
    """What was compared; the kind of a failure, and all of it."""
    try:
        checked = check(network, seed)
    except Exception as error:
        name = type(error).__name__
        return None, f"{name}: {re.sub('[0-9]+', '', str(error))[:20]}", f"{name}: {error}"
    if checked.refused is None or checked.expected or any(said in checked.refused for said in REFUSALS):
        return checked, "", ""
    return checked, f"refused: {checked.refused[:60]}", f"refused: {checked.refused}"


@pytest.mark.timeout(600 + 2 * EXAMPLES)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_networks_are_what_the_dictionary_of_their_paths_says(part, monkeypatch, record_property):
    tried, worst, refused = 0, 0.0, collections.Counter()
    with numpy_in_place(monkeypatch):
        for seed in range(FIRST + part, FIRST + EXAMPLES, PARTS):
            network = blocks.draw(seed)
            checked, kind, text = failure(network, seed)
            if kind:
                less = smallest(network, lambda n, seed=seed, kind=kind: failure(n, seed)[1] == kind)
                shapes = {name: value.shape for name, value in less.params.items()}
                pytest.fail(
                    f"NPK_SEED={seed} NPK_EXAMPLES=1\n{text}\n\n{less.text}\n\nx: {less.input.shape}, "
                    f"params: {shapes}, c = {less.constants}\n\nas drawn:\n{network.text}",
                    pytrace=False,
                )
            tried, worst = tried + 1, max(worst, checked.worst)
            if checked.refused is not None:
                refused["as the theory asks" if checked.expected else checked.refused[:60]] += 1
    record_property("networks", {"tried": tried, "worst relative error": f"{worst:.1e}", "refused": dict(refused)})
    outside = sum(number for what, number in refused.items() if what != "as the theory asks")
    assert outside <= 0.1 * tried + 2, f"more of them are refused than compared is worth: {refused}"


def test_what_numpy_computes_is_what_the_public_functions_compute():
    """A few networks by JAX: the functions that users call, of the same numbers."""
    compared = 0
    for seed in itertools.count():
        network = blocks.draw(seed)
        f, params = network.function(), network.params
        x = np.random.default_rng(seed).normal(size=(3, *network.input.shape))
        units, reader = network.units(x)
        if reader.twice or not alike(units, reader):
            continue
        assert_close(f(params, x), paths.values(units))
        assert_close(npk.npf(f)(params, x) @ npk.npv(f)(params, x), paths.values(units))
        assert npk.count_paths(f)(params, x) == len(npk.path_names(f)(params, x))
        for normalize, variance in ((True, reader.variance.__getitem__), (False, lambda weight: 1.0)):
            h = npk.path_kernel(f)(params, x, normalize=normalize)
            assert_close(h, paths.gram(units.flat[0], variance))
        compared += 1
        if compared == 3:
            return
