"""The held-out animals of a search and of its sealed test: models that never saw them, beside classical ones."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycal import animals
from raycal.search import recordings
from raycal.sessions.agreement import with_validation


def prepare(plan: Any, found: recordings.Recordings) -> recordings.Prepared | None:
    """Return train and validation blocks of the held-out recordings, which `found` has last; None without any."""
    if not plan.held_out:
        return None
    return recordings.prepare(found.last(len(plan.held_out)), plan.config.sessions, plan.held_agreement,
                              say=lambda _: None)


def searched(held: recordings.Prepared | None, models: Mapping[str, bytes], latents: int,
             say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Return {recording: {role: R2, "classical": {model: R2}}} on validation blocks; models: exported, by role."""
    import ray

    if held is None or not models:
        return {}
    say("the held-out recordings ...")
    refs = {role: recordings.beside(animals.of_model, held, model) for role, model in models.items()}
    classical = ray.get(recordings.beside(animals.of_classical, held, latents))
    reached = {role: ray.get(ref) for role, ref in refs.items()}
    return {id: {**{role: values[id] for role, values in reached.items()}, "classical": found}
            for id, found in classical.items()}


def opened(run: Any, models: Mapping[str, Sequence[bytes]], latents: int, part: str,
           over_seeds: Callable[[Sequence[Mapping[str, float]]], Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return {recording: {role: figures, "classical": {model: R2}, "sizes": {model: latents}}} on test blocks.

    models: exported, by role, one a seed; figures are those of over_seeds. Everything is fitted to train and validation blocks.
    """
    import ray

    plan = run.plan
    before = prepare(plan, run.found)
    if before is None:
        return {}
    sizes = ray.get(recordings.beside(animals.best_sizes, before))
    there = recordings.prepare(run.found.last(len(plan.held_out)), plan.config.sessions,
                               with_validation(plan.held_agreement), ("train", part), lambda _: None)
    refs = {role: [recordings.beside(animals.of_model, there, model, part) for model in some]
            for role, some in models.items()}
    classical = ray.get(recordings.beside(animals.of_classical, there, latents, part, sizes))
    reached = {role: over_seeds(ray.get(some)) for role, some in refs.items()}
    return {id: {**{role: figures[id] for role, figures in reached.items() if id in figures}, "classical": found,
                 "sizes": sizes[id]} for id, found in classical.items()}
