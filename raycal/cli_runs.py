"""The verbs on a run that exists: confirm, test and reproduce; flags and nothing else."""
from __future__ import annotations

import argparse

from raycal.flags import parser, whole


def confirm_parser() -> argparse.ArgumentParser:
    p = parser("raycal confirm", "Train the best of a run and its default again on fresh seeds, and say who wins.")
    _common(p)
    p.add_argument("--top", type=whole, metavar="K", help="best trials beside the default (default 5)", default=5)
    p.add_argument("--seeds", type=whole, metavar="N", help="fresh seeds, the same for all (default 5)", default=5)
    return p


def test_parser() -> argparse.ArgumentParser:
    p = parser("raycal test", "Open the sealed test blocks of a run, once: its confirmed winner beside its default.")
    _common(p)
    p.add_argument("--seeds", type=whole, metavar="N", help="seeds of the last trainings (default 5)", default=5)
    p.add_argument("--again", action="store_true", help="open blocks that were opened before; the receipt says so")
    return p


def reproduce_parser() -> argparse.ArgumentParser:
    p = parser("raycal reproduce", "Train one trial of a run again, and say whether the same comes of it.")
    _common(p)
    p.add_argument("--trial", type=_number, metavar="N", required=True, help="its number; 0 is the default")
    return p


def confirm(argv: list[str]) -> int:
    from raycal import api
    from raycal.report.confirmed import confirmation

    args = confirm_parser().parse_args(argv)
    record = api.confirm(args.run, args.top, args.seeds, **_options(args))
    print("\n".join([*confirmation(record), f"next         raycal test {args.run}"]))
    return 0


def test(argv: list[str]) -> int:
    from raycal import api
    from raycal.report.confirmed import openings

    args = test_parser().parse_args(argv)
    receipt = api.open_test(args.run, args.seeds, args.again, **_options(args))
    print("\n".join([*openings(receipt), f"receipt      {args.run}/test_receipt.json"]))
    return 0


def reproduce(argv: list[str]) -> int:
    from raycal import api

    args = reproduce_parser().parse_args(argv)
    found = api.reproduce(args.run, args.trial, **_options(args))
    print("\n".join(found.lines()))
    return 0 if found.same else 1


VERBS = {"confirm": confirm, "test": test, "reproduce": reproduce}


def _common(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", metavar="RUN", help="folder of a run, such as runs/grvq-20260101-1, or its URI")
    p.add_argument("--sessions", nargs="+", default=[], metavar="PATH", help="the recordings, where they moved")
    p.add_argument("--space", metavar="FILE.py", help="the space, where it is a file that moved")
    p.add_argument("--max-concurrent", type=whole, default=0, metavar="N", help="trainings at a time (default: all)")
    p.add_argument("--address", metavar="A", help="Ray cluster to join (auto); default: a local one")
    p.add_argument("-q", dest="quiet", action="store_true", help="print the closing block only")
    p.add_argument("-v", dest="verbose", action="store_true", help="show Ray's own output")


def _options(args: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(args, name) for name in ("sessions", "space", "max_concurrent", "address", "quiet", "verbose")}


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be the number of a trial")
    return int(text)
