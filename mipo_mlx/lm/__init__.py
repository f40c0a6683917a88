"""Language models: load, chat, respond, score, adapt. The only importer of mlx_lm and transformers.

``import mlx_lm`` takes seconds, so it happens inside the functions that need it.
"""

from __future__ import annotations

from mipo_mlx._blas import load_openblas

OPENBLAS = load_openblas()
