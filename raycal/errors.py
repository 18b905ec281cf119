"""The one exception a user is meant to read."""
from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user gave cannot work: the message names the thing, the value and the fix.

    The command line prints it without a traceback and ends with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest known name, or the empty string."""
    known = list(known)
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in known}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    close = close or [by_leaf[k] for k in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_leaf, n=1)]
    return f"; did you mean {close[0]!r}?" if close else ""
