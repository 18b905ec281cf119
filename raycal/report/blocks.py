"""What the report page is made of; its template knows how each kind looks."""
from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    text: str
    strong: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Plot:
    """A plotly figure; title says what it shows, caption what can be read off it: a screen reader has only these."""

    figure: Any
    title: str
    caption: str = ""
    wide: bool = False  # keeps its width on a phone and is scrolled there
    kind: ClassVar[str] = "plot"

    @property
    def json(self) -> str:
        """The figure's data and layout; no text in it can end the element that holds it."""
        return self.figure.to_json().replace("<", "\\u003c")


@dataclass(frozen=True)
class Picture:
    png: bytes
    title: str
    kind: ClassVar[str] = "picture"

    @property
    def source(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Table:
    """head and rows of words; the first column names the row, the others are numbers where `numbers` is."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Details:
    """What is folded away until it is asked for."""

    summary: str
    blocks: Sequence[Any]
    kind: ClassVar[str] = "details"


@dataclass(frozen=True)
class Grid:
    """Small figures beside each other, as many as the width holds."""

    blocks: Sequence[Any]
    kind: ClassVar[str] = "grid"
