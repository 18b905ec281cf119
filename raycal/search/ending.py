"""What a search measures and draws once its trials are over: classical codes, code lengths, pictures.

Everything that sees traces runs in tasks where the recordings are; the driver draws what comes back.
"""
from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import TrialState

from raycal.search import recordings
from raycal.search.folder import RunFolder
from raycal.search.plan import Plan

CURVE = 5  # rates at which classical codes are computed, from the lowest to the highest that a trial takes


class Ending(NamedTuple):
    """What there is to say and to draw."""

    facts: dict[str, Any]  # what summary.json is to hold: "baselines", ...
    portrait: Any  # of the winner, None without one: Portrait of raycal.report.latents, of models without codes .frames


def measure(plan: Plan, data: recordings.Prepared, study: Any, folder: RunFolder, say: Callable[[str], None]) -> Ending:
    """Measure the classical models of the same blocks, and the codes of the winner and of the default."""
    import ray

    from raycal.metrics.baselines import baselines
    from raycal.models import family

    gives = family(plan.config).gives
    if gives == "latents":
        return _of_frames(data, study, folder, say)
    if gives == "windows":
        return Ending(_generators(data, study, say), None)
    rates, roles = _rates(plan, study), _marked(study)
    if rates:
        say("classical codes of the same blocks, code lengths and pictures ...")
    coded = {number: recordings.beside(_coded, data, model, number == roles["winner"])
             for number, model in _models(folder, roles).items()}
    facts = {"baselines": ray.get(recordings.beside(baselines, data, rates)) if rates else {}, "code_length": {}}
    portrait = None
    with _spared("code lengths", say):
        answers = dict(zip(coded, ray.get(list(coded.values()))))
        facts["code_length"] = {role: answers[number][0] for role, number in roles.items() if number in answers}
        portrait = next((p for _, p in answers.values() if p is not None), None)
    return Ending(facts, portrait)


def _of_frames(data: recordings.Prepared, study: Any, folder: RunFolder, say: Callable[[str], None]) -> Ending:
    """Return the co-smoothing R2 of classical models, with as many latents as the winner's and at their best size, and
    the winner's portrait."""
    import ray

    from raycal.metrics.cosmoothing import baselines, best_sizes
    from raycal.search.study import best_trial

    best, portrait = best_trial(study), None
    if best is None:
        return Ending({"cosmoothing": {}}, None)
    say("ridge, PCA and factor analysis of the same blocks, and pictures ...")
    config, model = best.user_attrs["config"], _models(folder, {"winner": best.number}).get(best.number)
    drawn = None if model is None else recordings.beside(_portrayed, data, model)
    sizes, latents = ray.get(recordings.beside(best_sizes, data)), config["vae.latents"] + config["vae.window_latents"]
    found = ray.get(recordings.beside(baselines, data, latents, "validation", sizes))
    with _spared("what is drawn of the latents", say):
        portrait = None if drawn is None else ray.get(drawn)
    held = _held_out(data, study, folder, say) if data.held else {}
    return Ending({"cosmoothing": found, **held}, portrait)


def _held_out(data: recordings.Prepared, study: Any, folder: RunFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the co-smoothing R2 of winner, default and classical models on recordings that trained nothing."""
    from raycal.search import held_out
    from raycal.search.study import best_trial

    roles, best = _marked(study), best_trial(study)
    if best is None:
        return {}
    kept, config = _models(folder, roles), best.user_attrs["config"]
    models = {role: kept[number] for role, number in roles.items() if number in kept}
    return {"held_out": held_out.searched(data.held, models, config["vae.latents"] + config["vae.window_latents"], say)}


def _generators(data: recordings.Prepared, study: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the figures of classical generators of windows as long as the winner's."""
    import ray

    from raycal.metrics.real_windows import baselines
    from raycal.search.study import best_trial

    best = best_trial(study)
    if best is None:
        return {"generators": {}}
    say("a Gaussian and an autoregression of the same blocks ...")
    return {"generators": ray.get(recordings.beside(baselines, data, best.user_attrs["config"]["windows.length"]))}


def draw(ending: Ending, plan: Plan, study: Any, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Write figures/: the rate-distortion picture of the run, and the winner's latents and codes or what it draws."""
    from raycal.report import frames, latents, pictures
    from raycal.report.rate_distortion import draw_rate_distortion, points

    found, p = points(study, plan.rate), ending.portrait
    with _spared("pictures", say):
        figures = _generated(folder, study)
        figures |= {} if not found else {"rate-distortion": draw_rate_distortion(
            found, ending.facts["baselines"], _marked(study), ending.facts["code_length"])}
        if p is not None:
            figures |= (frames if isinstance(p, frames.Portrait) else latents).draw(p)
        if figures:
            complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
            pictures.write(folder.path, figures, step=len(complete))


def _generated(folder: RunFolder, study: Any) -> dict[str, Any]:
    """Return Figures of the windows that the winner drew when it was judged, none of a model that draws none."""
    from raycal.report.generated import draw
    from raycal.training import checkpoint

    for number in [n for role, n in _marked(study).items() if role == "winner"]:
        path = folder.trial(number) / "model.pt"
        arrays = checkpoint.load(path).get("arrays", {}) if path.is_file() else {}
        return draw(arrays["generated"]) if "generated" in arrays else {}
    return {}


def _marked(study: Any) -> dict[str, int]:
    """Return the numbers of the winner and of the default configuration."""
    from raycal.search.study import best_trial

    best = best_trial(study)
    return {"winner": best.number, "default": 0} if best else {}


def _rates(plan: Plan, study: Any) -> list[float]:
    """Return the rates (bits/s) that classical codes are asked for: the limit's, the winner's, and up to CURVE more."""
    from raycal.report.rate_distortion import points

    taken = {p.number: p.rate for p in points(study, plan.rate) if p.rate > 0}
    if not taken:
        return [plan.rate_limit] if plan.rate_limit else []
    low, high = min(taken.values()), max(*taken.values(), plan.rate_limit)
    named = [rate for rate in (plan.rate_limit, taken.get(_marked(study)["winner"])) if rate]
    between = [rate for rate in np.geomspace(low, high, CURVE).tolist() if all(abs(rate / n - 1) > 0.02 for n in named)]
    return named + between


def _models(folder: RunFolder, roles: dict[str, int]) -> dict[int, bytes]:
    """Return the exported models of these trials by number, of those that left one."""
    paths = {number: folder.trial(number) / "model.pt" for number in roles.values()}
    return {number: path.read_bytes() for number, path in paths.items() if path.is_file()}


def _coded(dataset: Any, model: bytes, drawn: bool) -> tuple[dict[str, Any], Any]:
    """Run as a task: return what a model's codes cost, and where drawn its portrait."""
    from raycal.inference import restored_model
    from raycal.report.latents import judged
    from raycal.training import checkpoint

    return judged(restored_model(checkpoint.load(io.BytesIO(model))), dataset, drawn)


def _portrayed(dataset: Any, model: bytes) -> Any:
    """Run as a task: return the portrait of a model with latents of frames."""
    from raycal.inference import restored_model
    from raycal.report.frames import portrait
    from raycal.training import checkpoint

    state = checkpoint.load(io.BytesIO(model))
    return portrait(restored_model(state), dataset, state["best"]["epoch"])


@contextlib.contextmanager
def _spared(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the end of a search from what only describes it: its traceback is said, and the search goes on."""
    try:
        yield
    except Exception:
        say(f"{what} failed; the run is complete without them:\n{traceback.format_exc()}")
