"""The command line: typer lives here only. Each command parses, calls one step, and prints its result."""
