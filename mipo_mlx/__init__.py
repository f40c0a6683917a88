"""MIPO on Apple Silicon: preference pairs from contrasted contexts, DPO on LoRA, honest evaluation.

Paper: Nam, Li, Jaques, "Maximizing Mutual Information Between Prompt and Response Improves LLM
Performance With No Additional Data", arXiv 2603.19294.
"""

from __future__ import annotations

from mipo_mlx._blas import load_openblas

__version__ = "0.1.0"

load_openblas()  # before anything imports mlx.core
