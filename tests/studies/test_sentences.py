"""What a page may say of its numbers: no sentence claims what an interval does not allow, and none is silent of a gain.

A claim is a word that stands for it, as "rises" or "better"; how a sentence is put is not tested.
"""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from npk.solving import jackknife, paired_difference, power_law, proportion
from npk.studies.pages import sentences

UP, DOWN, NONE = (0.02, 0.004, 0.036), (-0.02, -0.036, -0.004), (0.011, -0.002, 0.024)
TOUCHING = [(0.01, 0.0, 0.02), (-0.01, -0.02, 0.0), (0.0, 0.0, 0.0), (-0.011, -0.024, 0.002)]

changes = st.tuples(*[st.floats(-1, 1, allow_nan=False)] * 3).map(lambda ends: (sorted(ends)[1], *sorted(ends)[::2]))


def says(text, *words):
    """Whether any of the words, each a pattern, is in a text."""
    return any(re.search(rf"\b{word}\b", str(text), re.IGNORECASE) for word in words)


def numbers(text):
    """All numbers of a text, per cent and points as they stand there."""
    return [float(n.replace(",", "").replace("−", "-")) for n in re.findall(r"[−+-]?\d[\d,]*\.?\d*", str(text))]


# --- changes ----------------------------------------------------------------------------------------


@given(changes)
def test_a_change_is_settled_where_its_interval_leaves_zero_out(change):
    """But not where the change is no more than single precision's rounding."""
    value, low, high = change
    assert sentences.settled(change) == (0 if abs(value) < 1e-5 else (low > 0) - (high < 0))


def test_rounding_is_no_change():
    assert sentences.settled((6e-8, 1e-8, 1e-7)) == 0 and "no change" in sentences.share_verdict((6e-8, 1e-8, 1e-7))


VERDICTS = {
    "accuracy": lambda change: sentences.accuracy_verdict(change, 360, "image"),
    "measure": sentences.measure_verdict,
    "share": sentences.share_verdict,
    "inputs": lambda change: sentences.beyond_inputs(change, "pixel"),
    "learned": lambda change: sentences.learned_gates(0.9, 0.9 + change[0], change),
}
# What claims that there is more, that there is less, and what tells that nothing is known.
MORE = ("rises", "beyond chance", "say more", "put into the gates")
LESS = ("falls", "lower", "say less", "less well")
OPEN = ("no difference", "no change", "not seen", "no verdict")


@pytest.mark.parametrize("name", VERDICTS)
def test_more_is_said_only_of_an_interval_above_zero_and_less_only_of_one_below(name):
    verdict = VERDICTS[name]
    assert says(verdict(UP), *MORE) and not says(verdict(UP), *LESS, *OPEN)
    assert says(verdict(DOWN), *LESS) and not says(verdict(DOWN), *OPEN)
    assert not says(verdict(DOWN), "rises", "put into the gates") and verdict(DOWN) != verdict(UP)
    for change in (NONE, *TOUCHING):
        told = verdict(change)
        assert says(told, *OPEN), told
        assert not says(told, "rises", "falls", "beyond chance", "lower", "say less", "less well", "put into the gates")


@pytest.mark.parametrize("name", VERDICTS)
def test_every_verdict_comes_with_its_change_and_both_ends(name):
    """Signs are those of arithmetic, so that a hyphen ends no line and is read aloud as a minus."""
    scale, digits = (1, 3) if name == "measure" else (100, 1)
    for change in (UP, DOWN, NONE, *TOUCHING):
        told = str(VERDICTS[name](change))
        assert {round(scale * number, digits) for number in change} <= set(numbers(told)), told
        assert not re.search(r"-\d", told)


@given(changes)
def test_a_difference_is_told_in_points_with_a_sign_and_its_ends_in_order(change):
    value, low, high = numbers(sentences.points(change))
    assert [value, low, high] == pytest.approx([100 * number for number in change], abs=0.0501)
    assert low <= value <= high
    assert numbers(sentences.moved(change)) == pytest.approx(change, abs=0.000501)


def test_four_images_more_of_three_hundred_and_sixty_allow_no_verdict():
    """95.6 → 96.7 %: though every image that differs is in favour; of ten times the images it is beyond chance."""
    for times, words in ((1, OPEN), (10, MORE)):
        samples = np.arange(360 * times)
        found = paired_difference(samples < 348 * times, samples < 344 * times)
        change = (found.value, found.low, found.high)
        told = sentences.accuracy_verdict(change, 360 * times, "image")
        assert says(told, *words), told
        assert f"{360 * times:,}" in told or times == 10
        assert says(sentences.learned_gates(344 / 360, 348 / 360, change), *words)


def test_an_interval_is_told_in_per_cent_from_its_low_end_to_its_high_one():
    assert numbers(sentences.interval((0.0517, 0.9876))) == [5.2, 98.8]
    assert numbers(sentences.interval((0.0517, 0.9876), 0)) == [5, 99]


# --- training ---------------------------------------------------------------------------------------


def history(*records):
    return [{"step": step, "train_accuracy": accuracy} for step, accuracy in records]


EARLY = history((0, 0.1), (10, 0.3), (25, 0.6), (50, 0.8), (100, 0.9))
LATE = history((0, 0.1), (25, 0.2), (50, 0.4), (75, 0.7), (100, 0.9))
POOR_AND_LATE = history((0, 0.1), (25, 0.12), (50, 0.16), (75, 0.2), (100, 0.28))
POOR_AND_EARLY = history((0, 0.1), (20, 0.2), (100, 0.28))


def test_accuracy_comes_early_only_where_half_of_its_rise_is_in_the_first_quarter_of_steps():
    assert says(sentences.climb(EARLY), "early") and not says(sentences.climb(LATE), "early")
    assert says(sentences.climb(POOR_AND_EARLY), "early") and not says(sentences.climb(POOR_AND_LATE), "early")
    edge = history((0, 0.0), (25, 0.45), (100, 0.9))
    assert says(sentences.climb(edge), "early")
    assert not says(sentences.climb(history((0, 0.0), (26, 0.45), (100, 0.9))), "early")
    assert not says(sentences.climb(history((0, 0.0), (25, 0.44), (30, 0.8), (100, 0.9))), "early")


@pytest.mark.parametrize("records", [EARLY, LATE, POOR_AND_LATE, POOR_AND_EARLY])
def test_where_accuracy_began_and_ended_and_when_half_of_it_was_there_is_told(records):
    first, last = records[0]["train_accuracy"], records[-1]["train_accuracy"]
    half = next(r["step"] for r in records if r["train_accuracy"] >= (first + last) / 2 - 1e-12)
    found = numbers(sentences.climb(records))
    assert {round(100 * first), round(100 * last), half, 100} <= set(found)


def test_of_accuracy_that_did_not_rise_no_rise_is_told():
    for records in (history((0, 0.3), (50, 0.6), (100, 0.3)), history((0, 0.3), (100, 0.2))):
        told = sentences.climb(records)
        assert says(told, "did not rise") and not says(told, "rises", "half of its rise", "gains", "climb")
        assert {30, 100} <= set(numbers(told))


# --- gates ------------------------------------------------------------------------------------------


def test_gates_have_forgotten_their_start_only_where_as_many_differ_as_of_gates_that_had():
    """Of a share whose interval holds that number neither is known: that it is no less, or that it is."""
    below = sentences.forgotten({"all": 0.2, "forgotten": 0.4}, (0.18, 0.22))
    reached = sentences.forgotten({"all": 0.41, "forgotten": 0.4}, (0.39, 0.43))
    assert 40 in numbers(below) and 40 in numbers(reached)
    assert says(reached, "no less", "as many", "as much") and not says(below, "no less", "as many", "as much")
    unsure = sentences.forgotten({"all": 0.38, "forgotten": 0.4}, (0.35, 0.41))
    assert not says(unsure, "no less"), f"38 % are less than 40 %, though not beyond their interval: {unsure!r}"


def test_gates_are_said_to_know_more_than_their_network_only_beyond_the_interval():
    better = ("better", "more than")
    assert says(sentences.begun(0.10, (0.10 - 0.02, 0.10 + 0.02), 0.85, (0.81, 0.88), "At stage 0"), *better)
    assert not says(sentences.begun(0.83, (0.83 - 0.02, 0.83 + 0.02), 0.85, (0.81, 0.88), "At stage 0"), *better)
    assert not says(sentences.begun(0.81, (0.81 - 0.02, 0.81 + 0.02), 0.85, (0.81, 0.88), "At stage 0"), *better)
    assert not says(sentences.begun(0.95, (0.95 - 0.02, 0.95 + 0.02), 0.85, (0.81, 0.88), "At stage 0"), *better)
    for network, gates in ((0.10, 0.85), (0.95, 0.85)):
        assert {100 * network, 100 * gates} <= set(
            numbers(sentences.begun(network, (network - 0.02, network + 0.02), gates, (0.81, 0.88), "then"))
        )


def test_a_stage_is_called_what_it_is_and_no_markup():
    told = sentences.begun(0.1, (0.1 - 0.02, 0.1 + 0.02), 0.85, (0.81, 0.88), "At <b>a</b> & b")
    assert "<b>" not in escape(told), "what a checkpoint is called is text"
    assert says(sentences.begun(0.1, (0.1 - 0.02, 0.1 + 0.02), 0.85, (0.81, 0.88), "At epoch 3"), "At epoch 3")


def test_the_network_has_an_interval_too_before_its_gates_are_called_better():
    """Both of 360 images: 90 and 93.6 % are not told apart, though the interval of one leaves the other out."""
    right = np.arange(360)
    network, gates = proportion(right < 324), proportion(right < 337)
    assert network.value < gates.low < network.high
    told = sentences.begun(
        network.value, (network.low, network.high), gates.value, (gates.low, gates.high), "At stage 0"
    )
    apart = paired_difference(np.roll(right < 337, 100), right < 324)
    assert apart.low < 0
    assert not says(told, "better"), told


@given(st.floats(1, 240), st.floats(1, 240))
def test_a_rank_rises_or_falls_as_its_numbers_do(before, after):
    told = sentences.ranks(before, after, 240)
    rises, falls = says(told, "rises"), says(told, "falls")
    assert rises + falls + says(told, "stays") == 1
    assert not (rises and after <= before) and not (falls and after >= before)
    first, last = numbers(told.partition(":")[2])[:2]
    assert [first, last] == pytest.approx([before, after], abs=0.5001) and numbers(told)[-1] == 240
    if rises or falls:
        assert rises == (last > first) or last == first
    if abs(after - before) > 0.02 * before:
        assert rises or falls


# --- a comparison of widths -------------------------------------------------------------------------


def test_a_slope_is_as_expected_only_where_its_interval_holds_minus_one_half():
    inside, outside = ("lies in",), ("outside", "not in")
    for low, high in ((-0.55, -0.44), (-0.5, -0.4), (-0.6, -0.5)):
        told = sentences.as_expected(low, high)
        assert says(told, *inside) and not says(told, *outside)
        assert numbers(told)[-2:] == [low, high]
    for low, high in ((-0.49, -0.4), (-0.7, -0.51), (0.3, 0.7)):
        told = sentences.as_expected(low, high)
        assert says(told, *outside) and not says(told, *inside)
        assert numbers(told)[-2:] == [low, high]


LEVEL = ("level", "levels", "stays", "constant", "does not change")


@pytest.mark.parametrize("slope", [(0.62, 0.4, 0.8), (0.1, 0.001, 0.2)])
def test_a_distance_that_grows_does_not_level_off(slope):
    told = sentences.levelling(slope, 0.31, 0.55)
    assert says(told, "grows") and not says(told, *LEVEL, "falls")
    assert set(numbers(f"{slope[0]} {slope[1]:.2f} {slope[2]}")) <= set(numbers(told)) and {31, 55} <= set(
        numbers(told)
    )


def test_a_distance_that_falls_is_said_to_fall_and_one_that_may_be_level_neither():
    falling = sentences.levelling((-0.3, -0.4, -0.2), 0.3, 0.55)
    assert says(falling, "falls") and not says(falling, *LEVEL, "grows")
    for slope in ((0.02, -0.1, 0.14), (-0.05, -0.1, 0.0), (0.05, 0.0, 0.1)):
        level = sentences.levelling(slope, 0.54, 0.55)
        assert says(level, *LEVEL) and not says(level, "grows", "falls")
        assert {54, 55} <= set(numbers(level)), "how far it is from the limit stands beside"


def test_what_is_said_of_a_fit_is_what_its_draws_allow():
    """From errors to words: of draws about a slope of −½ and about none at all."""
    widths, draws = np.repeat([64.0, 256.0, 1024.0], 20), np.random.default_rng(0)
    for slope, told in ((-0.5, "falls"), (0.0, "does not change"), (0.4, "grows")):
        fit = power_law(widths, widths**slope * np.exp(0.2 * draws.normal(size=60)))
        assert says(sentences.levelling((fit.slope, fit.low, fit.high), 0.3, 0.5), told)
        assert says(sentences.as_expected(fit.low, fit.high), "lies in") == (slope == -0.5)


# --- together ---------------------------------------------------------------------------------------


def test_of_two_kernels_of_the_same_alignment_a_rise_is_told_about_one_time_in_forty():
    """A jackknife of noise: what a sentence says beyond its interval is wrong as rarely as that allows."""
    rises, falls, sets = 0, 0, 400
    draws = np.random.default_rng(1).normal(size=(2, sets, 240))
    found = jackknife(lambda kept: draws[0][:, kept].mean(1) - draws[1][:, kept].mean(1), 240)
    for change in ((one.value, one.low, one.high) for one in found):
        told = sentences.measure_verdict(change)
        rises, falls = rises + says(told, "rises"), falls + says(told, "falls")
    assert rises + falls < 0.08 * sets and min(rises, falls) > 0


def test_no_two_verdicts_of_one_kind_are_the_same_words():
    """So that a reader who has seen one kind of answer knows another."""
    for name, verdict in VERDICTS.items():
        words = [re.sub(r"[\d.,+−]+", "", str(verdict(change))) for change in (UP, DOWN, NONE)]
        assert all(a != b for a, b in itertools.combinations(words, 2)), name
