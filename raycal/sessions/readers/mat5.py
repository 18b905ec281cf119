"""The variables of a MATLAB v5 file, and of a struct in one, listed and read one by one.

MathWorks, "MAT-File Format": 128 bytes of head, then elements, each a type, a size and what it holds. A variable is a
matrix element (flags, dimensions, name, numbers), often compressed; the fields of a struct are matrix elements, too.
scipy.io.loadmat would read a struct with all that is in it, and a damaged type or cells thousands deep in one another
end the whole program there (segmentation faults in 1.10 and 1.17), so that numbers are taken from the bytes here.
"""
from __future__ import annotations

import contextlib
import functools
import itertools
import math
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from raycal.errors import UserError
from raycal.sessions.readers.limits import check_declared

HEAD = 128  # bytes before the first element, the last two the byte order
LONGEST = 63  # characters of a name
FIRST = 1024  # bytes of a variable that hold its flags, dimensions and name
MATRIX, COMPRESSED = 14, 15  # types of elements that are variables
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
CLASSES = ("empty", "cell", "struct", "object", "char", "sparse", *NUMERIC, "function_handle", "object")  # by number
OPAQUE = 17  # the last: objects such as table and string, without dimensions
COMPLEX, LOGICAL = 0x800, 0x200  # flags


@dataclass(frozen=True)
class Matrix:
    name: str
    kind: str  # MATLAB's class
    shape: tuple[int, ...]
    content: Callable[[], memoryview]  # what the element holds, decompressed


class Elements:
    """variables: name -> (MATLAB's class, shape); the first of those that share a name."""

    def __init__(self, path: pathlib.Path, order: str, matrices: Iterable[Matrix]) -> None:
        self.path, self.order = path, order
        self.matrices: dict[str, Matrix] = {}
        for matrix in matrices:
            self.matrices.setdefault(matrix.name, matrix)
        self.matrices.pop("", None)  # MATLAB's own, where objects are kept
        self.variables = {name: (matrix.kind, matrix.shape) for name, matrix in self.matrices.items()}

    def load(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Return full numeric variables, rows x columns; raise UserError when they are damaged."""
        with _damage_said(self.path):
            return {name: self._array(self.matrices[name]) for name in names}

    def struct(self, name: str) -> Elements:
        """Return the fields of a 1 x 1 struct; raise UserError when it is damaged."""
        with _damage_said(self.path):
            return Elements(self.path, self.order, list(_fields(self.matrices[name].content(), self.order)))

    def _array(self, matrix: Matrix) -> np.ndarray:
        check_declared(self.path, repr(matrix.name), 8 * math.prod(matrix.shape))
        kind, numbers = next(itertools.islice(_parts(matrix.content(), self.order), 3, None))
        if kind not in TYPES:
            raise ValueError(f"{matrix.name!r} holds numbers of type {kind}, which is none")
        return np.frombuffer(numbers, self.order + TYPES[kind]).reshape(matrix.shape, order="F")


def opened(path: pathlib.Path, stream: BinaryIO) -> Elements:
    """Return the variables of a file; raise UserError when it is damaged or cut off."""
    with _damage_said(path):
        stream.seek(0)
        order = "<" if stream.read(HEAD).endswith(b"IM") else ">"
        return Elements(path, order, list(_matrices(path, stream, order)))


@contextlib.contextmanager
def _damage_said(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (struct.error, zlib.error, ValueError, OverflowError, MemoryError, OSError) as e:
        raise UserError(f"{path}: damaged or cut off ({str(e) or type(e).__name__}); fetch the file again") from e


def _matrices(path: pathlib.Path, stream: BinaryIO, order: str) -> Iterator[Matrix]:
    """Yield a file's variables, of each only its first bytes read."""
    end, position = path.stat().st_size, HEAD
    while position < end:
        stream.seek(position)
        kind, size = _tag(stream.read(8), order)
        if kind not in (MATRIX, COMPRESSED) or not size or position + 8 + size > end:
            raise ValueError(f"an element of type {kind} and {size} bytes at byte {position} of {end}")
        first = stream.read(min(size, FIRST))
        if kind == COMPRESSED:
            first = zlib.decompressobj().decompress(first, FIRST)[8:]
        yield _matrix(memoryview(first), order, functools.partial(_content, path, stream, order, position))
        position += 8 + size


def _content(path: pathlib.Path, stream: BinaryIO, order: str, position: int) -> memoryview:
    """Return what the variable at this byte of the file holds."""
    stream.seek(position)
    kind, size = _tag(stream.read(8), order)
    content = stream.read(size)
    if kind == COMPRESSED:
        inflate = zlib.decompressobj()
        _, size = _tag(inflate.decompress(content, 8), order)
        check_declared(path, "a variable", size, len(content))
        content = inflate.decompress(inflate.unconsumed_tail, size + 1)
        if not inflate.eof:  # only there the checksum is compared
            raise ValueError(f"a variable does not end after the {size} bytes it declares")
    return memoryview(content)


def _matrix(content: memoryview, order: str, whole: Callable[[], memoryview], name: str | None = None) -> Matrix:
    """Return the variable, or field of this name, whose first bytes are given."""
    if not content:
        return Matrix(name or "", "empty", (0, 0), whole)
    parts = _parts(content, order)
    _, flags = next(parts)
    flags, _ = _tag(flags, order)
    if flags & 0xff == OPAQUE:
        shape = (1, 1)
    else:
        _, sizes = next(parts)
        shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"a variable of dimensions {shape}")
    own = bytes(next(parts)[1]).decode("latin-1")
    if len(own) > LONGEST or not own.isprintable():
        raise ValueError(f"a variable named {own[:LONGEST]!r}")
    kind = dict(enumerate(CLASSES)).get(flags & 0xff, "object")
    if kind in NUMERIC:
        kind = "logical" if flags & LOGICAL else f"complex {kind}" if flags & COMPLEX else kind
    return Matrix(own if name is None else name, kind, shape, whole)


def _tag(data: bytes | memoryview, order: str) -> tuple[int, int]:
    if len(data) < 8:
        raise ValueError("an element begins where the bytes end")
    return struct.unpack(f"{order}2I", data[:8])


def _parts(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the elements in an element: type and what it holds."""
    position = 0
    while True:
        kind, size = _tag(content[position:], order)
        start, stop = position + 8, position + 8 + size + -size % 8
        if kind >> 16:  # a small element: its size and up to 4 bytes lie in the tag
            kind, size, start, stop = kind & 0xffff, kind >> 16, position + 4, position + 8
        yield kind, content[start:start + size]
        position = stop


def _fields(content: memoryview, order: str) -> Iterator[Matrix]:
    """Yield the fields of a struct."""
    parts = itertools.islice(_parts(content, order), 3, None)  # behind flags, dimensions and name
    (_, width), (_, names) = next(parts), next(parts)
    width = struct.unpack(f"{order}I", width[:4])[0]
    for k in range(len(names) // width if width else 0):
        name = bytes(names[k * width:(k + 1) * width]).split(b"\0")[0].decode("latin-1")
        kind, field = next(parts)
        if kind != MATRIX or not name.isprintable():
            raise ValueError(f"field {name!r} is of type {kind}")
        yield _matrix(field, order, functools.partial(memoryview, field), name)
