"""What the parsers of all verbs share: a flag that is wrong ends as any bad input does."""
from __future__ import annotations

import argparse

from raycal.errors import UserError, nearest


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            head, _, flag = message.partition("unrecognized arguments: ")
            meant = nearest(flag.split()[0], self._option_string_actions) if flag and not head else ""
            raise UserError(f"{message}{meant}\n({self.prog} --help lists the flags)")

    return Parser(prog=prog, description=description, allow_abbrev=False)


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)
