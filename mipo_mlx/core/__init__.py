"""Pure functions of arrays: log-probs, losses, information, statistics. fp32 accumulation."""
