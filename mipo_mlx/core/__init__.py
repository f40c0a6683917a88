"""Pure functions of arrays: log-probs, losses, mutual information, KL. fp32 accumulation."""
