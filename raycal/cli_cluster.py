"""The verb `raycal cluster`: look at a cluster file before machines are paid for; flags and nothing else."""
from __future__ import annotations

import argparse

from raycal.flags import parser


def cluster_parser() -> argparse.ArgumentParser:
    """Return the parser of `raycal cluster`, an action a subparser."""
    p = parser("raycal cluster", "Check cluster files before machines are paid for.")
    actions = p.add_subparsers(dest="action", required=True, parser_class=type(p))
    check = actions.add_parser("check", allow_abbrev=False, help="a line a finding; ends with 1 when one is bad")
    check.add_argument("files", nargs="+", metavar="FILE", help="for ray up, KubeRay or sbatch")
    return p


def main(argv: list[str]) -> int:
    from raycal import cluster

    args = cluster_parser().parse_args(argv)
    bad = 0
    for path in args.files:
        if len(args.files) > 1:
            print(path)
        for finding in cluster.examine(path):
            print(finding, flush=True)
            bad += finding.state == "bad"
    print(f"{bad} of these stand in the way of a cluster" if bad else "nothing found that stands in the way")
    return 1 if bad else 0
