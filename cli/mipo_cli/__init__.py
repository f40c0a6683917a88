"""The ``mipo`` command."""
