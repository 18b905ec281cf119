"""Take a number out of a pickled dict without unpickling it, which could run any program.

The opcodes are walked as pickletools lists them. Nothing is called: where unpickling would call a function, what
it would be called with is kept as a tuple.
"""
from __future__ import annotations

import io
import os
import pathlib
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

MAGIC = b"\x93NUMPY\x01\x00"  # version 1: what numpy writes for objects
MAX_BYTES = 2**28  # a larger file is not searched
MAX_OPCODES = 10**6  # some seconds of walking
PUT, GET = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
FILLS_DICT = {"DICT": 0, "SETITEM": 1, "SETITEMS": 1}  # opcode -> where its keys and values begin on the stack
MARK = object()


def number(path: pathlib.Path, key: str) -> float | None:
    """Return the number that dicts in an .npy file of pickled objects hold under key.

    None where there is no such file, number or pickle, or where dicts disagree.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        with open(path, "rb") as f:
            if f.read(len(MAGIC)) != MAGIC:
                return None
            f.seek(int.from_bytes(f.read(2), "little"), os.SEEK_CUR)  # past the header, whose length leads it
            opcodes = pickletools.genops(io.BytesIO(f.read()))
        numbers = {_number(value) for name, value in _items(opcodes) if name == key}
    # damage shows as whatever the walk stumbles over: a short stack, an unknown memo, a tuple where a number should be
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError):
        return None
    return numbers.pop() if len(numbers) == 1 else None


def _items(opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield each key and value that the opcodes put into a dict."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(opcodes):
        if count > MAX_OPCODES:
            raise ValueError("too long")
        if opcode.name in PUT:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in GET:
            stack.append(memo[argument])
        elif opcode.name == "MARK":
            stack.append(MARK)
        else:
            taken = _take(stack, opcode)
            if opcode.name in FILLS_DICT:
                pairs = taken[FILLS_DICT[opcode.name]:]
                yield from zip(pairs[::2], pairs[1::2])
            stack += [taken if opcode.stack_before else argument] * len(opcode.stack_after)


def _take(stack: list[Any], opcode: pickletools.OpcodeInfo) -> tuple[Any, ...]:
    """Remove from the stack what the opcode takes, its mark left out."""
    above: list[Any] = []
    wanted = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        wanted = opcode.stack_before.index(pickletools.markobject)
        while (top := stack.pop()) is not MARK:
            above.append(top)
    below = [stack.pop() for _ in range(wanted)]
    return tuple((above + below)[::-1])


def _number(value: Any) -> float:
    """Return a Python number, or the numpy scalar pickled as (scalar, (dtype, bytes)); raise where it is neither."""
    if isinstance(value, (int, float)):
        return float(value)
    _, (dtype, raw) = value
    if isinstance(raw, tuple):  # protocol 2 has no bytes: (encode, (text, "latin1"))
        raw = raw[1][0].encode("latin1")
    code = dtype[1][0]  # (dtype, (code, ...)), or ((dtype, (code, ...)), state) where it was not met before
    code = code if isinstance(code, str) else dtype[0][1][0]
    if not isinstance(code, str) or code[0] not in "fiu":
        raise ValueError("no number")
    return float(np.frombuffer(raw, code).item())
