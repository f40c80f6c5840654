"""The command `workbench`: each command parses its options, calls one function of the package, and prints the result.

Answers go to standard output (tables, or JSON with `--json`), progress and messages to standard error.
Exit codes: 0 done; 1 a check failed (`--strict`, `doctor`); 2 error, with one sentence on standard error.
"""

from workbench.cli.main import app, main

__all__ = ["app", "main"]
