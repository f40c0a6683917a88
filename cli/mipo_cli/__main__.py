"""``python -m mipo_cli``."""

from mipo_cli.app import main

main()
