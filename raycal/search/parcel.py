"""What travels through Tune unseen."""
from __future__ import annotations

from typing import Any


class Parcel:
    """Carries a dict through Tune, which flattens, copies and prints the dicts it sees, and keeps them for good.

    All copies in a process are one: emptied once a trial has ended, it leaves nothing in Tune's list of trials.
    """

    def __init__(self, content: dict[str, Any]):
        self.content = content

    def empty(self) -> None:
        self.content = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Parcel:
        return self

    def __repr__(self) -> str:
        return self.content.get("kind", "...")
