"""Open NWB 2 files with pynwb: without copies of its type map, without links that lead elsewhere, damage in words."""
from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import h5py

from raycal.errors import UserError

if TYPE_CHECKING:  # pynwb takes half a second to import: only who reads such a file pays
    from hdmf.build import TypeMap
    from pynwb import NWBFile


def opened(path: pathlib.Path, read: Callable[[pathlib.Path, NWBFile], Any]) -> Any:
    """Return what `read` makes of the open file; raise UserError when it is damaged or no valid NWB."""
    try:
        with warnings.catch_warnings(), h5py.File(path, "r") as f, _one_type_map():
            warnings.simplefilter("ignore")  # pynwb warns of whatever a validator would say
            _check_links(path, f, set())
            return read(path, _nwb(f))
    except (UserError, ImportError):
        raise
    except Exception as e:  # pynwb and hdmf say damage with any exception that its consequences raise
        said = str(e.args[-1]) if e.args else ""  # hdmf puts the whole builder before it
        reason = (said or type(e).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: damaged, cut off or no valid NWB file ({reason}); fetch it again, or ask its authors "
                        "for one that pynwb reads") from e


def _nwb(f: h5py.File) -> NWBFile:
    """Return pynwb's view of the file, with the types of the extensions whose schema it carries."""
    from hdmf.build import BuildManager
    from pynwb import NWBHDF5IO, get_type_map

    types = _core_types()
    carried = f[f.attrs[".specloc"]] if ".specloc" in f.attrs else ()
    extensions = sorted(set(carried) - set(types.namespace_catalog.namespaces))
    if extensions:
        types = get_type_map()  # a copy of its own: what one file brings is not there for the next
        NWBHDF5IO.load_namespaces(types, file=f, namespaces=extensions)
    return NWBHDF5IO(file=f, mode="r", manager=BuildManager(types)).read()


@functools.lru_cache(maxsize=1)
def _core_types() -> TypeMap:
    """Return a type map of the core schema; reading adds to it how classes are built, and nothing of a file."""
    from pynwb import get_type_map

    return get_type_map()


@contextlib.contextmanager
def _one_type_map() -> Iterator[None]:
    """Let containers look at one type map while a file is read.

    pynwb before 3.1.1 and hdmf before 4.2 copy it for every field of every container, 80 % of the time of reading a
    small file (https://github.com/NeurodataWithoutBorders/pynwb/pull/2121, https://github.com/hdmf-dev/hdmf/pull/1352).
    """
    from hdmf.container import AbstractContainer
    from pynwb.core import NWBMixin

    originals = {owner: vars(owner)["_get_type_map"] for owner in (AbstractContainer, NWBMixin)
                 if "_get_type_map" in vars(owner)}
    try:
        for owner in originals:
            owner._get_type_map = lambda container: _core_types()
        yield
    finally:
        for owner, original in originals.items():
            owner._get_type_map = original


def _check_links(path: pathlib.Path, f: h5py.File, seen: set[pathlib.Path]) -> None:
    """Refuse links to anything but files in the file's own folder: a recording does not choose what else is opened."""
    targets: list[bytes] = []
    links = f.id.links
    links.visit(lambda name, info: targets.append(links.get_val(name)[0]) if info.type == h5py.h5l.TYPE_EXTERNAL
                else None, info=True)
    folder = pathlib.Path(f.filename).absolute().parent
    for target in dict.fromkeys(map(os.fsdecode, targets)):
        linked = pathlib.Path(os.path.abspath(folder / target))
        if not linked.is_relative_to(folder) or not linked.is_file():
            raise UserError(f"{path}: links to {target!r}, which is no file in its folder; put that file beside it, or "
                            "write one whole file with pynwb's export")
        if linked not in seen:
            seen.add(linked)
            with h5py.File(linked, "r") as other:
                _check_links(path, other, seen)
