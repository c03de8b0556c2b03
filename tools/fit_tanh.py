"""Fits the constants of tanh in cartpole/policy/native.py: tanh(x) / x = P(x^2) / Q(x^2).

P and Q have degree 4. `python -m tools.fit_tanh` prints their coefficients.
"""

import numpy as np
from numpy.typing import NDArray

DEGREE, LARGEST, ROUNDS = 4, 9.02, 60

Array = NDArray[np.float64]


def fit() -> tuple[Array, Array, float]:
    """Minimize the relative error by least squares in rounds.

    Each round linearizes by the denominator of the last (Sanathanan and Koerner) and weights by its
    error (Lawson), which levels the peaks of the error.

    Returns:
        coefficients of P and of Q, lowest power first, and the largest relative error.
    """
    x = np.concatenate([np.linspace(1e-3, 1, 1500), np.linspace(1, LARGEST, 3000)])
    wanted = np.tanh(x) / x
    powers = ((x / LARGEST) ** 2)[:, None] ** np.arange(DEGREE + 1)
    unknown = np.concatenate([powers[:, 1:], -wanted[:, None] * powers[:, 1:]], axis=1)
    weights, denominator = np.ones_like(x), np.ones_like(x)
    best = (np.zeros(0), np.zeros(0), np.inf)
    for _ in range(ROUNDS):
        scale = np.sqrt(weights) / (wanted * denominator)
        solution = np.linalg.lstsq(unknown * scale[:, None], (wanted - 1) * scale)[0]
        p, q = (np.concatenate([[1.0], part]) for part in np.split(solution, 2))
        denominator = powers @ q
        error = np.abs(powers @ p / denominator / wanted - 1)
        if error.max() < best[2]:
            shrink = LARGEST ** (2 * np.arange(DEGREE + 1))
            best = (p / shrink, q / shrink, float(error.max()))
        weights *= error
        weights /= weights.sum()
    return best


if __name__ == "__main__":
    p, q, error = fit()
    for name, values in (("P", p), ("Q", q)):
        print(name, ", ".join(f"{value:.8g}" for value in values))
    print(f"largest relative error {error:.2g}")
