"""Verbs and flags; nothing else.

`run_search.py` and `raycal` are this one program; without a verb it searches.
"""
from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
from typing import Any

from raycal import cli_cluster, cli_report, cli_runs, cli_sessions, terminal
from raycal.errors import UserError, nearest
from raycal.flags import parser, whole

VERBS = ("search", "plan", "train", "confirm", "test", "reproduce", "report", "export", "compare", "traverse", "apply",
         "generate", "sessions", "doctor", "cluster")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status: 0 done, 1 nothing came of it, 2 bad input, 128 + N ended by signal N."""
    with terminal.outlived():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv.pop(0) if argv and argv[0] in VERBS else None
    try:
        if verb is None and argv and not argv[0].startswith("-"):
            raise UserError(f"unknown verb {argv[0]!r}{nearest(argv[0], VERBS)} (verbs: {', '.join(VERBS)})")
        return {None: _search, "search": _search, "plan": _plan, "train": _train, "apply": _apply,
                "generate": _generate, "doctor": _doctor, "sessions": cli_sessions.main, "cluster": cli_cluster.main,
                **cli_runs.VERBS, **cli_report.VERBS}[verb](argv)
    except UserError as e:
        print(f"raycal: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        print(str(e) or "interrupted", file=sys.stderr)
        return 130


def search_parser() -> argparse.ArgumentParser:
    """Return the parser of a search; a test freezes its flags."""
    p = parser("run_search.py", "Search a space for the best model of calcium recordings.")
    _common(p)
    p.add_argument("--trials", metavar="N", help="trainings to spend (default 20)")
    p.add_argument("--objective", metavar="M", help="yardstick on validation blocks (nmse); two: a Pareto search")
    p.add_argument("--sampler", metavar="S", help="tpe, random, gp or nsga2")
    p.add_argument("--pruner", metavar="P", help="asha, hyperband, median or none")
    p.add_argument("--workers-per-trial", metavar="N", help="Ray Train workers of one trial")
    p.add_argument("--gpus-per-trial", metavar="G", help="GPUs of one worker; a fraction shares a GPU")
    p.add_argument("--max-concurrent", type=whole, default=0, metavar="N", help="trials at a time (default: all)")
    p.add_argument("--max-minutes", type=_positive, default=0.0, metavar="M", help="stop after this long; resumable")
    p.add_argument("--confirm-top", metavar="K", help="best trials to train again beside the default (default 2)")
    p.add_argument("--confirm-seeds", metavar="N", help="fresh seeds of each of them (default 3)")
    p.add_argument("--no-confirm", dest="confirm_top", action="store_const", const="0", help="end with the search")
    p.add_argument("--dry-run", action="store_true", help="say what would run, measured by a probe, and end")
    p.add_argument("--address", metavar="A", help="Ray cluster to join (auto); default: a local one")
    p.add_argument("--storage", metavar="URI", help="where to copy the run, such as s3://bucket/runs")
    p.add_argument("--list-spaces", action="store_true", help="list the spaces and end")
    p.add_argument("--resume", metavar="DIR", help="go on with a run, after any end")
    p.add_argument("--more", type=whole, default=0, metavar="N", help="with --resume: N trials more")
    p.add_argument("--allow-space-change", action="store_true",
                   help="with --resume: go on though the space changed, from the trials that still fit")
    p.add_argument("-v", dest="verbose", action="store_true", help="show Ray's own output")
    return p


def train_parser() -> argparse.ArgumentParser:
    p = parser("raycal train", "Train one configuration, without Ray.")
    _common(p)
    return p


def apply_parser() -> argparse.ArgumentParser:
    p = parser("raycal apply", "Write what a trained model says of recordings, and how well it holds there.")
    p.add_argument("model", metavar="RUN/best", help="folder of a trained model, or its .pt file")
    p.add_argument("--sessions", nargs="+", required=True, metavar="PATH", help="files, globs, URLs, allen:ID")
    p.add_argument("--out", required=True, metavar="DIR", help="a new folder for the results")
    p.add_argument("--adapt", action="store_true", help="other neurons: fit a read-in and a read-out, hold the rest")
    p.add_argument("--epochs", type=whole, metavar="E", help="with --adapt: epochs at most (default 20)")
    p.add_argument("--format", default="npz", metavar="F", help="npz or hdf5")
    p.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
                   help="sessions.traces=KEY; with --adapt also how the recordings are split")
    return p


def generate_parser() -> argparse.ArgumentParser:
    p = parser("raycal generate", "Draw new windows from a trained generative model.")
    p.add_argument("model", metavar="RUN", help="folder of a run or of a trained model, or its .pt file")
    p.add_argument("--windows", type=whole, default=1000, metavar="N", help="how many (default 1000)")
    p.add_argument("--behaviour", metavar="FILE", help="a recording whose behaviour they are drawn for")
    p.add_argument("--session", metavar="ID", help="which of the model's recordings (default: the first)")
    p.add_argument("--out", metavar="FILE", help="the .npz (default RUN/generated.npz); figures/ is made beside it")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed draws the same windows (default 0)")
    p.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda")
    return p


def doctor_parser() -> argparse.ArgumentParser:
    p = parser("raycal doctor", "Check this machine before a long search; ends with 1 when something stands in the way.")
    p.add_argument("--out", default="runs", metavar="DIR", help="where runs go (runs)")
    p.add_argument("--storage", default="", metavar="URI", help="where runs are copied to, such as s3://bucket/runs")
    p.add_argument("--address", default="", metavar="A", help="Ray cluster that is joined")
    return p


def _common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--space", metavar="NAME|FILE.py", help="what is searched (--list-spaces)")
    p.add_argument("--sessions", nargs="+", default=[], metavar="PATH",
                   help="recordings: files, globs, allen:ID; none: simulated ones")
    p.add_argument("--first-stage", nargs="+", default=[], metavar="RUN",
                   help="VQ-VAEs or VAEs on the same data: --space diffusion generates the latents of one of them")
    p.add_argument("--split", metavar="HOW", help="blocks, file, or animals: the last recording is held out whole, too")
    p.add_argument("--epochs", metavar="E", help="length of a full training")
    p.add_argument("--out", metavar="DIR", help="the run's folder (default runs/SPACE-DATE-N)")
    p.add_argument("--seed", metavar="S", help="seed of everything random (default 0)")
    p.add_argument("--device", metavar="D", help="auto, cpu or cuda")
    p.add_argument("--config", metavar="FILE", help="settings as YAML or JSON, such as a run's config.yaml")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
                   help="hold one setting (--print-config lists them)")
    p.add_argument("--print-config", action="store_true", help="print the settings as YAML and end")
    p.add_argument("-q", dest="quiet", action="store_true", help="print the closing block only")


def _search(argv: list[str]) -> int:
    from raycal import api
    from raycal.search import space as spaces

    args = search_parser().parse_args(argv)
    if args.list_spaces:
        print("\n".join(f"{n:<12}{spaces.purpose(n)}" for n in spaces.names()))
        return 0
    if args.more and not args.resume:
        raise UserError("--more: adds trials to a run; name it with --resume DIR")
    if args.allow_space_change and not args.resume:
        raise UserError("--allow-space-change: goes on with a run; name it with --resume DIR")
    if args.resume:
        args.resume, mirrored = api.local_run(args.resume)
        args.storage = args.storage or mirrored
    name, sessions, from_file, given = _gather(args)
    space, config, held = api.configure(name, given, from_file)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    from raycal.report.console import closing
    from raycal.search.run import Options, run  # here: it imports Ray

    summary = run(space, config, Options(
        sessions=sessions, out=args.out, resume=args.resume, more=args.more, max_concurrent=args.max_concurrent,
        max_minutes=args.max_minutes, address=args.address, storage=args.storage, verbose=args.verbose,
        quiet=args.quiet, dry_run=args.dry_run, held=held, allow_space_change=args.allow_space_change))
    if summary is None:
        return 0
    print(closing(summary))
    if summary.get("stopped_by"):
        return 128 + summary["stopped_by"]  # as a shell says it
    return 0 if summary["best"] else 1


def _plan(argv: list[str]) -> int:
    return _search([*argv, "--dry-run"])


def _gather(args: argparse.Namespace) -> tuple[str, list[str], dict[str, Any], dict[str, Any]]:
    """Return space name, sessions, the settings of the config file and those of the command line."""
    from raycal.api import SHORT, run_section, space_of
    from raycal.config import parse_set, read_file
    from raycal.search.folder import config_of

    from_file = read_file(config_of(args.resume)) if getattr(args, "resume", None) else {}
    from_file |= read_file(args.config) if args.config else {}
    run = run_section(from_file)
    given = {setting: getattr(args, flag) for flag, setting in SHORT.items() if getattr(args, flag, None) is not None}
    given = {k: parse_set(f"{k}={v}")[1] for k, v in given.items()}
    given = {**(run.get("held") or {}), **given, **dict(parse_set(s) for s in args.sets)}
    if args.first_stage:  # of several the first is the default's, and the search takes its choice
        found = [os.path.abspath(run) for run in args.first_stage]
        given |= {"diffusion.first_stages": found} | ({"diffusion.first_stage": found[0]} if len(found) == 1 else {})
        from_file["diffusion.first_stage"] = found[0]
    name = args.space or space_of(run.get("space"), getattr(args, "resume", None) or _run_of(args.config))
    if not name:
        from raycal.search import space as spaces

        raise UserError(f"--space is missing: give one of {', '.join(spaces.names())}, such as --space grvq")
    return name, args.sessions or run.get("sessions") or [], from_file, given


def _run_of(config: str | None) -> str | None:
    """Return the run folder that a file of settings lies in, None where it lies in none."""
    from raycal.search.folder import RunFolder

    folder = pathlib.Path(config).absolute().parent if config else None
    return str(folder) if folder and RunFolder(folder).journal.exists() else None


def _train(argv: list[str]) -> int:
    from raycal import api

    args = train_parser().parse_args(argv)
    name, sessions, from_file, given = _gather(args)
    _, config, _ = api.configure(name, given, from_file)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0

    def show(epoch: Any) -> None:
        if not args.quiet:
            print(f"epoch {epoch.epoch:4d}  {config.search.objective} {epoch.objective:.4f}  "
                  f"best {epoch.best_value:.4f} at {epoch.best_epoch}", flush=True)

    from raycal.search.folder import RunFolder

    folder = RunFolder.create(args.out, f"train-{name.removesuffix('.py').rsplit('/', 1)[-1]}")
    try:
        api.train(config, sessions, out=str(folder.path), on_epoch=show)
    except UserError:
        folder.discard()
        raise
    pictures = f"pictures     {folder.path}/figures\n" if (folder.path / "figures").is_dir() else ""
    print(f"model        {folder.path}/model.pt\n{pictures}"
          f"next         python -c \"import raycal; print(raycal.load('{folder.path}'))\"")
    return 0


def _apply(argv: list[str]) -> int:
    from raycal import application
    from raycal.config import parse_set

    args = apply_parser().parse_args(argv)
    done = application.run(args.model, args.sessions, args.out, adapt=args.adapt, epochs=args.epochs,
                           format=args.format, device=args.device, settings=dict(parse_set(s) for s in args.sets))
    print(done.closing())
    return 0


def _generate(argv: list[str]) -> int:
    from raycal import generation

    args = generate_parser().parse_args(argv)
    generation.run(args.model, args.windows, behavior=args.behaviour, out=args.out, session=args.session,
                   seed=args.seed, device=args.device)
    return 0


def _doctor(argv: list[str]) -> int:
    from raycal import doctor

    args = doctor_parser().parse_args(argv)
    bad = 0
    for finding in doctor.examine(args.out, args.storage, args.address):
        print(finding, flush=True)
        bad += finding.state == "bad"
    print(f"{bad} of these stand in the way of a search" if bad else "nothing stands in the way of a search")
    return 1 if bad else 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
