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

from raycal.search import recordings
from raycal.search.folder import RunFolder
from raycal.search.plan import Plan

CURVE = 5  # rates at which classical codes are computed, from the lowest to the highest that a trial takes


class Ending(NamedTuple):
    """facts: what summary.json is to hold ("baselines", ...); portrait: of the winner, None without one."""

    facts: dict[str, Any]
    portrait: Any  # raycal.report.latents.Portrait


def measure(plan: Plan, data: recordings.Prepared, study: Any, folder: RunFolder, say: Callable[[str], None]) -> Ending:
    """Measure the classical models of the same blocks, and the codes of the winner and of the default."""
    import ray

    from raycal.metrics.baselines import baselines
    from raycal.models import family

    beside = {"latents": _cosmoothing, "windows": _generators}.get(family(plan.config).gives)
    if beside:
        return Ending(beside(data, study, say), None)
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


def _cosmoothing(data: recordings.Prepared, study: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the co-smoothing R2 of classical models, with as many latents as the winner's and at their best size."""
    import ray

    from raycal.metrics.cosmoothing import baselines, best_sizes
    from raycal.search.study import best_trial

    best = best_trial(study)
    if best is None:
        return {"cosmoothing": {}}
    say("ridge, PCA and factor analysis of the same blocks ...")
    config, sizes = best.user_attrs["config"], ray.get(recordings.beside(best_sizes, data))
    latents = config["vae.latents"] + config["vae.window_latents"]
    return {"cosmoothing": ray.get(recordings.beside(baselines, data, latents, "validation", sizes))}


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
    from raycal.report import latents, pictures
    from raycal.report.rate_distortion import draw_rate_distortion, points

    with _spared("pictures", say):
        figures, found = _generated(folder, study), points(study, plan.rate)
        if found:
            figures["rate-distortion"] = draw_rate_distortion(found, ending.facts["baselines"], _marked(study),
                                                              ending.facts["code_length"])
        if found and ending.portrait is not None:
            figures |= latents.draw(ending.portrait)
        if figures:
            pictures.write(folder.path, figures, step=max(1, len(found)))


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


@contextlib.contextmanager
def _spared(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the end of a search from what only describes it: its traceback is said, and the search goes on."""
    try:
        yield
    except Exception:
        say(f"{what} failed; the run is complete without them:\n{traceback.format_exc()}")
