"""Intervals by the formulas of their papers: Wilson's, Agresti and Min's, Tukey's of values left out."""

import numpy as np
import scipy.stats

Z = scipy.stats.norm.ppf(0.975)


def left_out(of, n, numbers=None):
    """Of every statistic its value and ends, from its values with one group after another left out (Tukey)."""
    numbers = np.arange(n) % 20 if numbers is None else numbers
    groups = len(set(numbers.tolist()))
    whole, left = of(np.arange(n)), [of(np.flatnonzero(numbers != g)) for g in range(groups)]
    pseudo = groups * np.array(whole) - (groups - 1) * np.array(left)
    reach = scipy.stats.t.ppf(0.975, groups - 1) * scipy.stats.sem(pseudo, axis=0)
    return np.stack([whole, whole - reach, whole + reach], axis=-1)


def wilson(right):
    n, p = len(right), right.mean()
    roots = np.roots([1 + Z**2 / n, -(2 * p + Z**2 / n), p**2])  # (p - θ)² = z² θ(1 - θ) / n
    return sorted(roots.real)


def paired(right, before):
    n, gain, loss = len(right) + 2, (right & ~before).sum() + 0.5, (~right & before).sum() + 0.5
    middle = (gain - loss) / n
    reach = Z * np.sqrt(((gain + loss) / n - middle**2) / n)
    return [right.mean() - before.mean(), middle - reach, middle + reach]
