"""Speed and memory of sampling and of a training step on this machine, for ``mipo bench``."""
