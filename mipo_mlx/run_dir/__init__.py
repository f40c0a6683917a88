"""The run directory and where it was made; the only writer."""
