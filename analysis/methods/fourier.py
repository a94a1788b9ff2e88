"""Fourier modes of the residue in activations (docs/study.md, Fig. 7, TADD).

Mode k of n values is the plane of cos(2 pi k v / n) and sin(2 pi k v / n) over values v; its power is the share of
the variance of the tokens' mean activations that lies in it. All modes together hold everything, so by chance each
has 2 / (n - 1). A mode counts as present where its power is beyond what any mode at any layer reaches in 99 of 100
shuffles of the values: by chance one checkpoint in a hundred has a false mode at a site, at any of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from olmo_inject.randomness import key, permutation

LEVEL = 0.99
_NO_VARIANCE = 1e-6  # of the length of the activations: what varies less is rounding


@dataclass(frozen=True)
class Spectrum:
    """The modes at every layer of one site.

    Attributes:
        power: share of the variance, by layer and mode 1 to floor(n / 2); zero where nothing varies.
        threshold: the power that counts as present.
        present: whether it is reached.
        shuffled: whether it is with the values shuffled once more: the control.
    """

    power: Float64[np.ndarray, "layers modes"]
    threshold: Float64[np.ndarray, "layers modes"]
    present: Bool[np.ndarray, "layers modes"]
    shuffled: Bool[np.ndarray, "layers modes"]


def spectrum(points: Float64[np.ndarray, "layers n d"], permutations: int, seed: int = 0) -> Spectrum:
    """The power of every mode at every layer, against shuffled values.

    Shuffles are the same at all layers. What is compared is a mode's power in standard deviations of its power
    over shuffles, since layers of few dimensions vary more.

    Args:
        points: the mean activation of each value at each layer, in the order of the values; n at least 3.
        permutations: how many shuffles, at least 100.
        seed: of the shuffles.
    """
    grams = np.stack([_gram(layer) for layer in points])
    n = grams.shape[1]
    power = _power(grams)
    orders = [permutation(key("fourier", "shuffle", seed), n, counter) for counter in range(permutations + 1)]
    by_chance = np.stack([_power(grams[:, order][:, :, order]) for order in orders])
    last, by_chance = by_chance[-1], by_chance[:-1]  # one that the threshold does not know, for the control
    mean, spread = by_chance.mean(axis=0), np.maximum(by_chance.std(axis=0), 1e-12)
    extreme = float(np.quantile(((by_chance - mean) / spread).max(axis=(1, 2)), LEVEL, method="higher"))
    threshold = mean + extreme * spread
    return Spectrum(power, threshold, power > threshold, last > threshold)


def circle(points: Float64[np.ndarray, "n d"], mode: int) -> Float64[np.ndarray, "n 2"]:
    """Where each value lies in the plane of a mode, the plane found without that value.

    (Found with it, points of many dimensions lie on a circle whatever they are.) A mode that is there shows as
    the values in turn around a circle of radius about 1; noise shows as a cloud about zero.
    """
    gram = _gram(points)
    angles = 2 * np.pi * mode * np.arange(len(gram)) / len(gram)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    others = (gram - np.diag(np.diag(gram))) @ waves
    squared = np.einsum("vk,vu,uk->k", waves, gram, waves)  # of the lengths of the directions, times (n / 2)^2
    return others / np.maximum(squared / (len(gram) / 2), _NO_VARIANCE)


def _gram(points: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    """Inner products of the points about their mean, in units of their variance: the trace is 1, or 0 without any."""
    centred = points - points.mean(axis=0)
    gram = centred @ centred.T
    total = float(np.trace(gram))
    return gram / total if total > (_NO_VARIANCE**2) * float((points**2).sum()) else np.zeros_like(gram)


def _power(grams: Float64[np.ndarray, "layers n n"]) -> Float64[np.ndarray, "layers modes"]:
    """The share in each mode: a sum over pairs of values of their inner product, by the distance between them."""
    n = grams.shape[1]
    rows = np.arange(n)
    by_distance = grams[:, rows[:, None], (rows[:, None] + rows) % n].sum(axis=1)  # [layers, distance]
    modes = np.arange(1, n // 2 + 1)
    waves = np.cos(2 * np.pi * np.outer(rows, modes) / n)
    share = by_distance @ waves / n  # of exp(2 pi i k v / n); k and n - k are one mode
    return np.where(2 * modes == n, share, 2 * share)
