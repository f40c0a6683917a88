"""How many different things a set holds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def vendi(kernel: Float[np.ndarray, "n n"]) -> float:
    """Vendi score, ``exp(-sum l_i log l_i)`` over the eigenvalues ``l`` of ``K / n``, 1 to n.

    1 where all are alike, n where none is like another (Friedman, Dieng 2023, arXiv 2210.02410,
    definition 3.1).

    Args:
        kernel: similarities, symmetric and positive semidefinite, 1 on the diagonal.
    """
    values = np.linalg.eigvalsh(kernel / len(kernel))
    positive = values[values > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))
