"""`python -m opentrans_cli`."""

from opentrans_cli.cli.app import main

main()
