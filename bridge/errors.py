"""The one class of errors that are the user's to mend, and the line for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """One line that says what was given, what exists and what to do. The CLI prints it without a traceback and exits with 2."""


def unknown(key: str, known: Iterable[str], what: str = "setting") -> str:
    """The line for a name that does not exist: what was given, what it may have meant, what exists."""
    names = sorted(known)
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{' '.join(key.split())}: no such {what}; {guess}it may be one of: {', '.join(names) or '(none)'}"
