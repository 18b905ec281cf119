"""The variables of a MATLAB v7.3 file, and of a struct in one, listed and read one by one.

v7.3 is HDF5 behind 512 bytes of text. MATLAB is column-major, so h5py sees arrays transposed; their class is in the
attribute MATLAB_class, structs and sparse matrices are groups, and cells refer to what lies in #refs#.
"""
from __future__ import annotations

import pathlib
from collections.abc import Iterable

import h5py
import numpy as np

from raycal.sessions.readers import hdf5

CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}  # numpy's name -> MATLAB's


class Group:
    """variables: name -> (MATLAB's class, shape), as mat5.Elements has them."""

    def __init__(self, path: pathlib.Path, group: h5py.Group) -> None:
        self.path, self.group = path, group
        found = {name: group.get(name) for name in group
                 if isinstance(name, str) and name.isprintable() and not name.startswith("#")}
        self.variables = {name: _kind_and_shape(item) for name, item in found.items()
                          if isinstance(item, (h5py.Group, h5py.Dataset))}

    def load(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Return full numeric variables, rows x columns."""
        return {name: hdf5.array(self.path, self.group, name, "the file lists it").T for name in names}

    def struct(self, name: str) -> Group:
        """Return the fields of a 1 x 1 struct."""
        return Group(self.path, self.group[name])


def _kind_and_shape(item: h5py.Group | h5py.Dataset) -> tuple[str, tuple[int, ...]]:
    kind = hdf5.decoded(item.attrs.get("MATLAB_class", ""))
    if isinstance(item, h5py.Group):
        return "sparse" if "MATLAB_sparse" in item.attrs else kind or "struct", (1, 1)
    if "MATLAB_empty" in item.attrs or item.shape is None:  # the dataset holds the dimensions
        return kind or "empty", (0, 0)
    if item.dtype.kind not in "fiub" and kind != "cell":  # complex numbers are pairs
        return f"{'complex' if item.dtype.names else item.dtype.name} {kind}".strip(), item.shape[::-1]
    return kind or CLASSES.get(item.dtype.name, item.dtype.name), item.shape[::-1]
