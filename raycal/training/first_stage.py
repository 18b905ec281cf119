"""The trained model in whose latents a generative one is trained (`--first-stage RUN`)."""
from __future__ import annotations

import functools
import pathlib
from typing import TYPE_CHECKING, Any

from raycal.errors import UserError

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.models.latentflow import FirstStage


def of(config: Config) -> dict[str, Any] | None:
    """Return the description that models.build takes, None where traces themselves are generated.

    Raise UserError where there is no such model, or it has no latents that are trained in the unit of the traces.
    """
    return described(_state(config)) if config.diffusion.first_stage else None


def described(state: dict[str, Any]) -> dict[str, Any]:
    """Return what builds the model of an export anew, without its weights."""
    data = state["data"]
    return {"config": state["config"], "n_neurons": [len(s["kept"]) for s in data["sessions"]],
            "n_behaviors": len(data["behavior_names"]), "neurons": [list(s["neurons"]) for s in data["sessions"]]}


def check(config: Config, fingerprint: str) -> None:
    """Raise UserError unless every first stage of a search can serve it: trained on these data and this split."""
    from raycal.models import FAMILIES

    d = config.diffusion
    for path in dict.fromkeys([*filter(None, [d.first_stage]), *d.first_stages]):
        state = _state(config.replace({"diffusion.first_stage": path}))
        family = state["config"]["model.family"]
        if FAMILIES[family].gives == "windows":
            raise UserError(f"--first-stage {path}: is a {family} model, which has no latents to generate; give a run "
                            "of --space vae, vq, grvq or another VQ-VAE")
        if state["fingerprint"] != fingerprint:
            raise UserError(f"--first-stage {path}: was trained on data and split {state['fingerprint']}, these are "
                            f"{fingerprint}; give a run on the same recordings and split, or train one")
        for name in ("sessions.normalize", "sessions.mode"):
            if state["config"][name] != config.get(name):
                raise UserError(f"--first-stage {path}: was trained with {name}={state['config'][name]}, this is "
                                f"{config.get(name)}; use --set {name}={state['config'][name]}")


def fill(first: FirstStage, config: Config) -> None:
    """Load the weights that the first stage was trained to."""
    first.model.load_state_dict(_state(config)["model"])


def _state(config: Config) -> dict[str, Any]:
    path = pathlib.Path(config.diffusion.first_stage)
    found = next((p for p in (path, path / "model.pt", path / "best" / "model.pt") if p.is_file()), None)
    if found is None:
        raise UserError(f"--first-stage {path}: holds no model.pt; give the folder of a run or of a trained model")
    return _loaded(str(found), found.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)  # a probe builds every corner of a space
def _loaded(path: str, modified: int) -> dict[str, Any]:
    from raycal.training import checkpoint

    return checkpoint.load(path)
