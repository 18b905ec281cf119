"""The variables of a MATLAB v5 file, and of a struct in one, listed and read by scipy.

A struct is read with all that is in it. Damaged bytes can crash scipy (1.10 to 1.17), so apart.py reads these files.
"""
from __future__ import annotations

import io
import math
import os
import pathlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from raycal.errors import UserError
from raycal.sessions.readers.limits import check_declared

NUMERIC = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
CLASSES = {"float64": "double", "float32": "single", "O": "cell", "U": "char", "c": "complex double"}  # numpy's name
UNNAMED = "(tables, strings, ...)"  # scipy calls each of them None
# NameError: scipy names no array of a class it does not know
DAMAGE = (scipy.io.matlab.MatReadError, struct.error, zlib.error, ArithmeticError, AttributeError, EOFError,
          LookupError, MemoryError, NameError, OSError, RuntimeError, TypeError, ValueError)
Variable = tuple[str, tuple[int, ...]]  # MATLAB's class, shape


class Elements:
    """variables: name -> (MATLAB's class, shape); values: name -> what scipy made of it, None: still in the file."""

    def __init__(self, path: pathlib.Path, variables: Mapping[str, Variable],
                 values: Mapping[str, Any] | None = None) -> None:
        self.path, self.values = path, values
        self.variables = {name: listed for name, listed in variables.items() if name.isprintable()}

    def load(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Return those full and real, rows x columns; of others `variables` then has the class that whosmat hides."""
        loaded = self._loaded(list(names))
        others = {name: listed for name, listed in _listed(loaded).items() if listed[0] not in NUMERIC}
        self.variables.update(others)
        return {name: value for name, value in loaded.items() if name not in others}

    def struct(self, name: str) -> Elements:
        """Return the fields of a 1 x 1 struct."""
        record = self._loaded([name])[name]
        fields = {field: record[field][0, 0] for field in record.dtype.names or ()}
        return Elements(self.path, _listed(fields), fields)

    def _loaded(self, names: list[str]) -> dict[str, Any]:
        for name in names:
            check_declared(self.path, repr(name), 8 * math.prod(self.variables[name][1]))
        values = scipy.io.loadmat(self.path, variable_names=names) if self.values is None else self.values
        return {name: values[name] for name in names}


class _Uncut(io.FileIO):
    """A file with no place behind its end, where whosmat would take its list for complete."""

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if position > os.fstat(self.fileno()).st_size:
            raise EOFError("it ends within a variable")
        return super().seek(position, whence)


def opened(path: pathlib.Path, read: Callable[[pathlib.Path, Elements], Any]) -> Any:
    """Return what `read` makes of the variables; raise UserError when the file is damaged or cut off."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names given twice, and of what then comes as text
            return read(path, _elements(path))
    except DAMAGE as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged or cut off ({reason}); fetch the file again") from e


def _elements(path: pathlib.Path) -> Elements:
    with _Uncut(path) as f:
        try:
            found = scipy.io.whosmat(f, chars_as_strings=False)
        except TypeError:  # of a table or string, which loadmat knows
            values = {UNNAMED if name == "None" else name: value for name, value in scipy.io.loadmat(path).items()
                      if not name.startswith("__")}
            return Elements(path, _listed(values), values)
    variables: dict[str, Variable] = {}
    for name, shape, kind in found:
        if not name.startswith("__"):
            variables.setdefault(name, (kind, shape))  # of those that share a name loadmat, too, takes the first
    return Elements(path, variables)


def _listed(values: Mapping[str, Any]) -> dict[str, Variable]:
    return {name: (_class(value), value.shape) for name, value in values.items()}


def _class(value: Any) -> str:
    if scipy.sparse.issparse(value):
        return "sparse"
    if not isinstance(value, np.ndarray):
        raise ValueError(value)  # loadmat's words on why it could not read it
    if type(value) is not np.ndarray:
        return "object"
    name = value.dtype.name
    return "struct" if value.dtype.names else CLASSES.get(value.dtype.kind) or CLASSES.get(name, name)
