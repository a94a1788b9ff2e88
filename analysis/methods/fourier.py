"""Fourier modes of the residue in activations (docs/study.md, Fig. 7, TADD).

Mode k of n values is the plane spanned by cos(2 pi k v / n) and sin(2 pi k v / n) over values v. Its power is the share
of the variance of the tokens' mean activations that lies in this plane. The powers of all modes sum to 1, so each is 2
/ (n - 1) by chance. A mode counts as present if its power exceeds what the largest mode of any layer reaches in 99 of
100 shuffles of the values. So by chance one checkpoint in a hundred shows a false mode at a site, in any of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from olmo_inject.randomness import key, permutation

LEVEL = 0.99
_NO_VARIANCE = 1e-6  # relative to the length of the activations: smaller variation is rounding


@dataclass(frozen=True)
class Spectrum:
    """The modes at every layer of one site.

    Attributes:
        power: share of the variance in modes 1 to floor(n / 2); zero if nothing varies.
        threshold: the power above which a mode counts as present.
        present: whether power exceeds the threshold.
        shuffled: the same test on one more shuffle of the values, as a control.
    """

    power: Float64[np.ndarray, "layers modes"]
    threshold: Float64[np.ndarray, "layers modes"]
    present: Bool[np.ndarray, "layers modes"]
    shuffled: Bool[np.ndarray, "layers modes"]


def spectrum(points: Float64[np.ndarray, "layers n d"], permutations: int, seed: int = 0) -> Spectrum:
    """The power of every mode at every layer, tested against shuffled values.

    All layers share the shuffles. A mode's power is compared in standard deviations over shuffles, since layers of few
    dimensions vary more.

    Args:
        points: mean activation of each value at each layer, in the order of the values; n at least 3.
        permutations: number of shuffles, at least 100.
        seed: of the shuffles.
    """
    grams = np.stack([_gram(layer) for layer in points])
    n = grams.shape[1]
    power = _power(grams)
    orders = [permutation(key("fourier", "shuffle", seed), n, counter) for counter in range(permutations + 1)]
    by_chance = np.stack([_power(grams[:, order][:, :, order]) for order in orders])
    last, by_chance = by_chance[-1], by_chance[:-1]  # the control is a shuffle that the threshold does not use
    mean, spread = by_chance.mean(axis=0), np.maximum(by_chance.std(axis=0), 1e-12)
    extreme = float(np.quantile(((by_chance - mean) / spread).max(axis=(1, 2)), LEVEL, method="higher"))
    threshold = mean + extreme * spread
    return Spectrum(power, threshold, power > threshold, last > threshold)


def circle(points: Float64[np.ndarray, "n d"], mode: int) -> Float64[np.ndarray, "n 2"]:
    """Where each value lies in the plane of a mode. The plane is estimated without that value.

    (If the value were included, points of many dimensions would lie on a circle whatever they are.) If the mode is
    present, the values follow each other around a circle of radius about 1; noise gives a cloud around zero.
    """
    gram = _gram(points)
    angles = 2 * np.pi * mode * np.arange(len(gram)) / len(gram)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    others = (gram - np.diag(np.diag(gram))) @ waves
    squared = np.einsum("vk,vu,uk->k", waves, gram, waves)  # squared lengths of the directions, times (n / 2)^2
    return others / np.maximum(squared / (len(gram) / 2), _NO_VARIANCE)


def _gram(points: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    """Inner products of the centered points, scaled to trace 1. All zero if nothing varies."""
    centred = points - points.mean(axis=0)
    gram = centred @ centred.T
    total = float(np.trace(gram))
    return gram / total if total > (_NO_VARIANCE**2) * float((points**2).sum()) else np.zeros_like(gram)


def _power(grams: Float64[np.ndarray, "layers n n"]) -> Float64[np.ndarray, "layers modes"]:
    """The share of variance in each mode: sum inner products of pairs of values by the distance between the values."""
    n = grams.shape[1]
    rows = np.arange(n)
    by_distance = grams[:, rows[:, None], (rows[:, None] + rows) % n].sum(axis=1)  # [layers, distance]
    modes = np.arange(1, n // 2 + 1)
    waves = np.cos(2 * np.pi * np.outer(rows, modes) / n)
    share = by_distance @ waves / n  # power of exp(2 pi i k v / n); k and n - k are the same mode
    return np.where(2 * modes == n, share, 2 * share)
