"""Posterior collapse, shown and prevented: a VAE under one most weight of the KL divergence, schedule by schedule.

    python benchmarks/collapse.py [--sessions PATH ...] [--weight 30] [--epochs 16] [--lr 3e-3] [--seed 0]

The first row is the ELBO's own weight, 1. All others come to `--weight`, at which the divergence costs more than what
latents tell, so a training under the constant weight gives them up: no latent is active, the posterior is the prior
whatever the traces, and hidden neurons are predicted by their mean. Free bits leave each latent a rate that costs nothing;
`target` lowers the weight, one factor an epoch, for as long as the rate is under its target. Figures are of the last epoch on validation blocks,
not of the best, which would hide what the weight does in the end; every training is as long and sees the same batches.
"""
from __future__ import annotations

import argparse
from typing import Any

import common

BASE = {"optimizer.schedule": "constant", "vae.behavior_dropout": 1.0, "vae.condition": "never",
        "training.device": "cpu"}
ROWS = {"constant, ELBO": {"kl.schedule": "constant", "kl.weight": 1.0},
        "constant": {"kl.schedule": "constant"},
        "linear": {"kl.schedule": "linear", "kl.warmup": 0.5},
        "cyclical": {"kl.schedule": "cyclical", "kl.cycles": 2, "kl.warmup": 0.8},
        "free bits": {"kl.schedule": "constant", "kl.free_bits": 0.25},
        "target": {"kl.schedule": "target", "kl.target": 6.0}}
SHOWN = {"val/rate": "KL, nats/frame", "val/active_units": "active units", "val/cosmoothing_r2": "co-smoothing R2"}


def trained(dataset: Any, config: Any) -> dict[str, float]:
    """Return the metrics of the last epoch's weights on the validation part, and the weight that they ended under."""
    from raycal.inference import restored_model
    from raycal.training import checkpoint
    from raycal.training.evaluate import evaluate
    from raycal.training.loop import train

    state: dict[str, Any] = {}
    for _ in train(config, dataset, until=config.training.epochs, save=state.update):
        pass
    model = restored_model(checkpoint.export(state)).model
    return {**evaluate(model, dataset, config), "weight": state["history"][-1]["train/kl_weight"]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--sessions", nargs="+", default=[], help="recordings; none: two simulated ones")
    p.add_argument("--weight", type=float, default=30.0)
    p.add_argument("--epochs", type=int, default=16)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()

    import torch

    from raycal import api
    from raycal.search.plan import simulated_sessions
    from raycal.sessions.prepare import prepare

    torch.set_num_threads(1)
    config = api.configure("vae", {**BASE, "kl.weight": args.weight, "training.epochs": args.epochs,
                                   "optimizer.lr": args.lr, "training.seed": args.seed}, {})[1]
    sessions = api.read(args.sessions) or simulated_sessions()
    dataset = prepare(sessions, config.sessions, config.windows.length)
    print(f"{len(sessions)} sessions, {dataset.n_neurons} neurons, {config.vae.latents} latents, {args.epochs} epochs\n"
          f"{'schedule':<16}{'most weight':>13}{'last weight':>13}" + "".join(f"{v:>17}" for v in SHOWN.values()))
    found = {}
    for name, change in ROWS.items():
        one = config.replace(change)
        metrics = trained(dataset, one)
        found[name] = {key.removeprefix("val/"): metrics[key] for key in SHOWN}
        print(f"{name:<16}{one.kl.weight:>13.4g}{metrics['weight']:>13.4g}"
              + "".join(f"{metrics[key]:>17.4f}" for key in SHOWN), flush=True)
    kept = {name: r["cosmoothing_r2"] for name, r in found.items() if name not in ("constant, ELBO", "constant")}
    best = max(kept, key=kept.get)
    common.finish({"benchmark": "collapse", "weight": args.weight, "best": best,
                   **{f"{key}_{name}": value for name in ("constant", best) for key, value in found[name].items()}})


if __name__ == "__main__":
    main()
