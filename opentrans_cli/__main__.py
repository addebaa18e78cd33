"""`python -m opentrans_cli`, and the installed command."""

import sys


def main() -> None:
    """Run the command line."""
    try:  # Ctrl-C may come while it is imported
        from opentrans_cli.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
