"""The command line, the only part that uses typer. Each command parses, calls one step, and prints its result."""
