"""The verbs that read finished runs: report, export, compare, traverse; none of them needs Ray."""
from __future__ import annotations

import argparse
import pathlib

from raycal.errors import UserError
from raycal.flags import parser, whole


def report_parser() -> argparse.ArgumentParser:
    p = parser("raycal report", "Write one HTML page of a run, or of several side by side.")
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or its URI (s3://bucket/runs/NAME)")
    p.add_argument("--out", metavar="FILE",
                   help="the page (default RUN/report.html; of several runs, or of a URI, report.html here)")
    return p


def export_parser() -> argparse.ArgumentParser:
    p = parser("raycal export", "Print a run's trials with their confirmed and tested figures.")
    p.add_argument("run", metavar="RUN", help="folder of a run, or its URI")
    p.add_argument("--format", default="csv", metavar="F", help="csv, json, markdown or latex (default csv)")
    p.add_argument("--out", metavar="FILE", help="write it there instead of printing it")
    return p


def compare_parser() -> argparse.ArgumentParser:
    p = parser("raycal compare", "Compare the winners of two runs over the seeds they share.")
    p.add_argument("first", metavar="RUN_A", help="folder of a run, or its URI")
    p.add_argument("second", metavar="RUN_B", help="folder of another one on the same data and split")
    return p


def traverse_parser() -> argparse.ArgumentParser:
    p = parser("raycal traverse", "Show what each latent of a trained VAE does to the neurons.")
    p.add_argument("run", metavar="RUN", help="folder of a run or of a trained model, such as runs/vae-20260101-1")
    p.add_argument("--latents", type=whole, default=6, metavar="M", help="how many, from the most active on (6)")
    return p


def report(argv: list[str]) -> int:
    from raycal.report import page

    args = report_parser().parse_args(argv)
    print(page.write(args.runs, args.out))
    return 0


def export(argv: list[str]) -> int:
    from raycal.report import export as tables
    from raycal.report.record import Run
    from raycal.search.folder import write_atomically

    args = export_parser().parse_args(argv)
    text = tables.export(Run.read(args.run), args.format)
    if not args.out:
        print(text, end="")
        return 0
    try:
        write_atomically(pathlib.Path(args.out), text)
    except OSError as e:
        raise UserError(f"--out {args.out}: cannot be written ({e.strerror or e})") from None
    print(args.out)
    return 0


def compare(argv: list[str]) -> int:
    from raycal.report import compare as pairs
    from raycal.report.record import Run

    args = compare_parser().parse_args(argv)
    print(pairs.compare(Run.read(args.first), Run.read(args.second)))
    return 0


def traverse(argv: list[str]) -> int:
    from raycal import inference, traversal
    from raycal.api import local_run

    args = traverse_parser().parse_args(argv)
    folder = pathlib.Path(local_run(args.run)[0])
    trained = inference.load(folder)
    if not folder.is_dir():
        folder = folder.parent
    *drawn, arrays = traversal.write(folder, trained, args.latents)
    print(f"pictures     {drawn[0].parent}/traverse-*.png   ({len(drawn)} latents, from the most active on: "
          f"{drawn[0].name})\narrays       {arrays}   (traces_0 ... of the sessions: latents x values x neurons)\n"
          f"next         tensorboard --logdir {drawn[0].parent}")
    return 0


VERBS = {"report": report, "export": export, "compare": compare, "traverse": traverse}
