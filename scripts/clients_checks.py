"""Runs a client's checks, a line each."""

import inspect
import sys
from collections.abc import Callable


def run(client: str, checks: list[Callable[[], None]]) -> None:
    """Run each check, which says in its docstring what it is about; exit with 1 if one fails."""
    failed = 0
    for check in checks:
        try:
            check()
            told = "ok"
        except Exception as error:  # noqa: BLE001  whatever a client makes of an answer
            failed += 1
            told = f"FAILED  {type(error).__name__}: {error}"
        print(f"{client:<18}{inspect.getdoc(check) or check.__name__:<52}{told}", flush=True)
    sys.exit(failed > 0)
