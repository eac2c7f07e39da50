"""What the page of a study says, chosen by tests on its numbers: no sentence claims more than its interval allows.

An interval is [low, high], a change [value, low, high]; both of 95 %.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from npk.studies.pages.page import rank

Change = Sequence[float]

# At most, where an end of an interval is close to zero.
_DECIMALS = 6
# Of single precision, in what is between 0 and 1.
_ROUNDING = 1e-5
# Early is what comes in the first quarter of all steps.
_EARLY = 0.25


def settled(change: Change) -> int:
    """1 where a change is above zero beyond its interval and beyond rounding, -1 where it is below, else 0."""
    value, low, high = change
    if abs(value) < _ROUNDING:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def interval(ends: Sequence[float], decimals: int = 1) -> str:
    """Of a share, in per cent."""
    low, high = ends
    return f"{low:.{decimals}%} to {high:.{decimals}%}"


def points(change: Change) -> str:
    """A difference of accuracies with its interval, in points of per cent."""
    value, low, high = _signed([100 * number for number in change], 1)
    return f"{value} points ({low} to {high})"


def moved(change: Change, decimals: int = 3) -> str:
    """A difference with its interval."""
    value, low, high = _signed(change, decimals)
    return f"{value} ({low} to {high})"


def _signed(numbers: Sequence[float], decimals: int) -> list[str]:
    """Numbers with their signs, and as many more decimals as it takes to see on which side of zero they are."""
    while decimals < _DECIMALS and any(number and not round(number, decimals) for number in numbers):
        decimals += 1
    return [f"{number:+.{decimals}f}".replace("-", "−") for number in numbers]


def accuracy_verdict(change: Change, samples: int, noun: str) -> str:
    """Of two accuracies on the same test samples."""
    return {
        1: f"beyond chance: {points(change)}",
        -1: f"lower, beyond chance: {points(change)}",
        0: f"no difference that {samples:,} {noun}s can show: {points(change)}",
    }[settled(change)]


def measure_verdict(change: Change) -> str:
    """Of a measure of a kernel at two stages."""
    return _verdict(change, moved(change))


def share_verdict(change: Change) -> str:
    """Of a share of a trace at two stages."""
    return _verdict(change, points(change))


def _verdict(change: Change, told: str) -> str:
    return {
        1: f"it rises, by {told}",
        -1: f"it falls, by {told}",
        0: f"no change beyond its interval: {told}",
    }[settled(change)]


def climb(history: Sequence[Mapping[str, Any]]) -> str:
    """When training accuracy was gained: where half of its rise is there."""
    first, last = history[0], history[-1]
    rise, gained = last["train_accuracy"] - first["train_accuracy"], f"from {first['train_accuracy']:.0%} to "
    gained += f"{last['train_accuracy']:.0%}"
    if rise <= 0:
        return f"Training accuracy did not rise: it went {gained} in {last['step']:,} steps."
    half = next(r for r in history if r["train_accuracy"] - first["train_accuracy"] >= rise / 2)
    when = f"half of its rise, {gained}, is there after {half['step']:,} of {last['step']:,} steps"
    if half["step"] <= _EARLY * last["step"]:
        return (
            f"Training accuracy rises early: {when}. So the stages are spread over the climb, not over time; each step "
            "from one to the next gains about as much training accuracy."
        )
    return f"Of training accuracy {when}. The stages are spread over this climb."


def forgotten(flips: Mapping[str, Any], ends: Sequence[float]) -> str:
    """How far gates are from having forgotten where they started."""
    chance, had = flips["forgotten"], "had each unit forgotten where it started, and opened as often as it does now"
    if ends[1] < chance:
        return f"{had.capitalize()}, {chance:.0%} would differ."
    if ends[0] > chance:
        return f"That is more than the {chance:.0%} that would differ {had}: many units now say the opposite."
    return f"As many, {chance:.0%}, would differ {had}, as far as the interval tells."


def begun(network: float, network_ends: Sequence[float], gates: float, gates_ends: Sequence[float], when: str) -> str:
    """What gates know beside their network at the first stage."""
    if gates_ends[0] > network_ends[1]:
        text = f"{when} the gates alone compare samples better than the network itself classifies them"
        return f"{text} ({gates:.1%} against {network:.1%})."
    return f"{when} the network classifies {network:.1%} correctly, its gates alone {gates:.1%}."


def beyond_inputs(change: Change, noun: str) -> str:
    """What the gates know that the inputs alone do not say."""
    return {
        1: f"The gates say more of the classes than the {noun}s do: {points(change)}.",
        -1: f"The gates say less of the classes than the {noun}s do: {points(change)}.",
        0: f"That the gates say more of the classes than the {noun}s is not seen on these samples: {points(change)}.",
    }[settled(change)]


def learned_gates(random: float, learned: float, change: Change) -> str:
    """Whether fresh weights do better under learned gates than under those of the first stage."""
    both = f"{random:.1%} with the gates of the first stage, {learned:.1%} with those of the last"
    return {
        1: f"{both}: {points(change)}, which is what learning put into the gates, as far as one seed shows it.",
        -1: f"{both}: {points(change)}. Here the gates that were learned serve fresh weights less well.",
        0: f"{both}: {points(change)}, no difference that this test set can show. Random gates may be enough here, or "
        "the test set too small to tell.",
    }[settled(change)]


def ranks(before: float, after: float, samples: int) -> str:
    """Of the effective rank, which is a fact of these samples."""
    if rank(before) == rank(after):
        return f"stays: {rank(before)} at first, {rank(after)} at last, out of {samples:,}"
    return (
        f"{'rises' if after > before else 'falls'}: {rank(before)} at first, {rank(after)} at last, out of {samples:,}"
    )


# --- of a comparison of widths ----------------------------------------------------------------------


def as_expected(low: float, high: float) -> str:
    """Whether a slope's interval holds −½, that of a width's many independent units."""
    ends = f"{low:.2f} to {high:.2f}".replace("-", "−")
    return f"−½ lies in its interval, {ends}" if low <= -0.5 <= high else f"−½ lies outside its interval, {ends}"


def levelling(slope: Change, distance: float, limit: float) -> str:
    """What becomes of the distance between K^V and the kernel of its gates where gates are the network's own."""
    value, low, high = (f"{number:.2f}".replace("-", "−") for number in slope)
    here = f"it is {distance:.0%} at the widest, {limit:.0%} between the limits (dashed)"
    if settled(slope) == 0:
        return f"the same distance does not change with the width as far as these draws show; {here}"
    way = "grows" if slope[0] > 0 else "falls"
    return f"the same distance still {way} with the width (slope {value}, {low} to {high}); {here}"
