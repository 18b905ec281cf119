"""The verb `raycal sessions`: look at recordings, find Allen's, simulate some."""
from __future__ import annotations

import argparse
import pathlib
import shlex
import sys

from raycal.errors import UserError
from raycal.flags import parser, whole


def main(argv: list[str]) -> int:
    """Run an action; return its exit status."""
    args = sessions_parser().parse_args(argv)
    return {"show": _show, "check": _check, "allen": _allen, "simulate": _simulate}[args.action](args)


def sessions_parser() -> argparse.ArgumentParser:
    """Return the parser of `raycal sessions`, an action a subparser."""
    p = parser("raycal sessions", "Look at recordings, find Allen's, simulate some.")
    actions = p.add_subparsers(dest="action", required=True, parser_class=type(p))
    show = actions.add_parser("show", allow_abbrev=False, help="print each recording and draw it")
    show.add_argument("--out", metavar="FILE.png", help="where the drawing goes (default: NAME.png beside you)")
    check = actions.add_parser("check", allow_abbrev=False, help="read all, print one table; ends with 1 when one fails")
    for action in (show, check):
        action.add_argument("paths", nargs="+", metavar="PATH", help="files, globs, URLs, allen:ID, a list of them")
        action.add_argument("--traces", default="", metavar="KEY", help="as --set sessions.traces=KEY")
    allen = actions.add_parser("allen", allow_abbrev=False, help="list sessions of the Allen Brain Observatory")
    allen.add_argument("--area", metavar="A", default="", help="such as VISp")
    allen.add_argument("--cre", metavar="LINE", default="", help="such as Cux2")
    allen.add_argument("--depth", metavar="A:B", default="", help="um, such as 100:300")
    allen.add_argument("--stimulus", metavar="NAME", default="", help="such as natural_movie_one")
    allen.add_argument("--min-cells", type=whole, default=0, metavar="N", help="cells at least")
    simulate = actions.add_parser("simulate", allow_abbrev=False, help="write recordings whose truth is known")
    simulate.add_argument("--format", choices=("npz", "allen"), default="npz", help="allen: a cache that AllenSDK reads")
    simulate.add_argument("--out", required=True, metavar="DIR", help="the folder they go to")
    simulate.add_argument("--cells", default="150", metavar="N,N", help="neurons of each recording (150)")
    simulate.add_argument("--frames", type=whole, default=6000, metavar="T", help="frames of each (6000)")
    simulate.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed gives the same files (0)")
    return p


def _show(args: argparse.Namespace) -> int:
    from raycal.report.figures import draw_session
    from raycal.sessions.readers import read

    recordings = read(args.paths, args.traces)
    if args.out and len(recordings) > 1:
        raise UserError(f"--out {args.out}: one file for {len(recordings)} recordings; leave it out or show one")
    for session in recordings:
        picture = pathlib.Path(args.out or f"{session.id}.png")
        draw_session(session, picture)
        print(f"{session.summary()}\ndrawn        {picture}")
    print(_search_of(args))
    return 0


def _check(args: argparse.Namespace) -> int:
    from raycal.report.console import counter
    from raycal.report.overview import examine, table

    rows, problems = examine(args.paths, args.traces, counter("reading", False))
    if rows:
        print(table(rows))
    for problem in problems:
        print(f"raycal: {problem}", file=sys.stderr)
    if any("unknown" in r.cells for r in rows):
        print("Hz unknown: give the rate with --set sessions.rate=HZ when you search")
    print(f"{len(rows)} read, {len(problems)} refused" if problems else f"all {len(rows)} read\n{_search_of(args)}")
    return 1 if problems else 0


def _search_of(args: argparse.Namespace) -> str:
    key = f" --set {shlex.quote(f'sessions.traces={args.traces}')}" if args.traces else ""
    return f"next         python run_search.py --space grvq --sessions {shlex.join(args.paths)}{key}"


def _allen(args: argparse.Namespace) -> int:
    from raycal.sessions import catalogue

    found = catalogue.experiments(area=args.area, cre=args.cre, depth=args.depth, stimulus=args.stimulus,
                                  min_cells=args.min_cells)
    if not found:
        print("no session of Allen's fits; ask for less, as in raycal sessions allen --area VISp")
        return 1
    chosen = ",".join(str(e.id) for e in found[:4])
    print(f"{catalogue.table(found)}\nnext         python run_search.py --space grvq --sessions allen:{chosen}")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from raycal.sessions import simulate, standin

    sizes = [(n, args.frames) for n in _counts(args.cells)]
    writer = {"npz": simulate.write, "allen": standin.write}[args.format]
    for id, made in writer(args.out, sizes, args.seed).items():
        reached = ", ".join(f"{name} {r2:.3f}" for name, r2 in made.items() if isinstance(r2, float))
        print(f"{id:<14}{made['frames']} frames x {made['cells']} neurons   R2 that an ideal observer reaches: {reached}")
    print(f"written      {args.out}   (ceilings.json holds these figures)")
    pattern = f"{args.out}/{'ophys_experiment_data/*.nwb' if args.format == 'allen' else '*.npz'}"
    print(f"next         python run_search.py --space grvq --sessions {shlex.quote(pattern)}")
    return 0


def _counts(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UserError(f"--cells {text}: give whole numbers parted by commas, such as 150,240")
    return [int(part) for part in text.split(",")]
