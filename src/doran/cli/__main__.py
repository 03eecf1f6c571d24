"""`python -m doran.cli`: the command without its installed script."""

from doran.cli.app import main

main()
