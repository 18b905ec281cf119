"""The sealed test blocks, opened once: the confirmed winner and the default, trained on train and validation.

Each is trained for the median best epoch of its confirmation, on several seeds that nothing was chosen by, by workers
that hold no test frame. Only then are the models judged on the test blocks, beside the classical codes and ridge (a
model without codes beside what classical models reach at its own task), and the receipt (RUN/test_receipt.json, user
attribute "test" of the study) is written before a figure is shown. A second opening has to be asked for, and is marked
wherever its figures stand.
"""
from __future__ import annotations

import functools
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycal.config import Config
from raycal.errors import UserError
from raycal.metrics.intervals import mean_interval, paired_difference
from raycal.models import family
from raycal.report.console import Progress
from raycal.search import connection, held_out, jobs, provenance, recordings
from raycal.search.confirm import comparison, fresh_seeds, now, outcome_of
from raycal.search.folder import RunFolder
from raycal.search.ready import Options, Reopened, reopened
from raycal.search.space import Space
from raycal.search.study import plain, read_study
from raycal.sessions.agreement import with_validation

KEY = "test"


def run(space: Space, config: Config, options: Options, seeds: int, again: bool) -> list[dict[str, Any]]:
    """Open the test blocks of the run of options.resume; return all its openings. Raise UserError before that is done
    where they were opened earlier and `again` is not set, or where nothing is confirmed."""
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: an interval over seeds takes at least 2")
    if not options.verbose:
        connection.hush()
    check(read_study(options.resume), options.resume, again)  # before Ray starts
    say = Progress.printer(options.quiet)
    with reopened(space, config, options, 2 * seeds, say) as run:
        record = check(run.study, options.resume, again)
        numbers = {"winner": int(record["winner"]), "default": int(record["default"])}
        epochs = {role: round(statistics.median(record["trials"][str(n)]["epochs"])) for role, n in numbers.items()}
        fresh = fresh_seeds(run.study, seeds, used=record["seeds"])
        models = _train(run, {numbers[role]: epochs[role] for role in numbers}, fresh, say)
        opening = _open(run, record, numbers, models, fresh, say) | {"epochs": epochs, "seeds": fresh}
        earlier = run.study.user_attrs.get(KEY, [])
        receipt = [*earlier, {**opening, "again": bool(earlier), "earlier": [o["when"] for o in earlier]}]
        run.study.set_user_attr(KEY, plain(receipt))
        run.finish(say)
    return receipt


def check(study, path: str, again: bool) -> Mapping[str, Any]:
    """Return the confirmation that says what to test; raise UserError where there is none, or no opening left."""
    opened = study.user_attrs.get(KEY, [])
    if opened and not again:
        raise UserError(f"{path}: its test blocks were opened {opened[0]['when']} (test_receipt.json has the figures); "
                        "a model that is chosen after that is chosen by them\nfix: test on recordings that no run has "
                        "seen, or give --again, which every report will say")
    record = study.user_attrs.get("confirm")
    if record is None:
        raise UserError(f"{path}: nothing is confirmed yet, so there is no winner to test\nfix: raycal confirm {path}")
    if record["winner"] is None:
        raise UserError(f"{path}: {record['verdict']}\nfix: raycal confirm {path} with other trials (--top)")
    return record


def _train(run: Reopened, lengths: Mapping[int, int], seeds: Sequence[int],
           say: Callable[[str], None]) -> dict[tuple[int, int], Any]:
    """Train every (trial number, seed) for its length on train and validation; return the model files, None: failed."""
    places = {(number, seed): _place(run.folder, number, seed, lengths[number]) for seed in seeds for number in lengths}
    missing = [key for key, place in places.items() if not (place / "model.pt").is_file()]
    say(f"{len(missing)} trainings on train and validation: "
        + ", ".join(f"trial {n} for {epochs} epochs" for n, epochs in lengths.items()))
    if missing:
        whole = with_validation(run.plan.agreement)
        run.cluster.grow(min(run.cluster.slots.count, len(missing)))
        run.cluster.hand_over(recordings.prepare(run.found, run.plan.config.sessions, whole, ("train",), say).refs)
    failed = set()
    for (number, seed), event in jobs.complete(run.cluster, [
            (key, _payload(run, key, places[key], lengths[key[0]])) for key in missing]):
        reason = outcome_of(event)["reason"]
        (places[number, seed] / "checkpoint.pt").unlink(missing_ok=True)
        if reason:
            failed.add((number, seed))
            (places[number, seed] / "model.pt").unlink(missing_ok=True)  # else it would pass for a whole one next time
        say(f"last {number:4d}  seed {seed}  {reason or f'{lengths[number]} epochs'}")
        if event["kind"] != "epoch":
            say(event["message"].rstrip())
    return {key: None if key in failed else place / "model.pt" for key, place in places.items()}


def _payload(run: Reopened, key: tuple[int, int], place, epochs: int) -> dict[str, Any]:
    from raycal.training.loop import train

    number, seed = key
    place.mkdir(parents=True, exist_ok=True)
    config = run.study.get_trials(deepcopy=False)[number].user_attrs["config"]
    return {"config": {**config, "training.seed": seed}, "folder": str(place),
            "trainer": functools.partial(train, until=epochs)}


def _open(run: Reopened, record: Mapping[str, Any], numbers: Mapping[str, int], models: Mapping[tuple[int, int], Any],
          seeds: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Judge the models on the test blocks; this is the one place that prepares their frames."""
    import ray

    from raycal.metrics.baselines import LAGS, baselines, ridge_on_traces

    say("opening the sealed test blocks ...")
    opened = recordings.prepare(run.found, run.plan.config.sessions, with_validation(run.plan.agreement),
                                ("train", "test"), lambda _: None)
    judged = {key: recordings.beside(_judged, opened, path.read_bytes()) for key, path in models.items() if path}
    ridge = recordings.beside(ridge_on_traces, opened, LAGS, KEY)
    metrics = {key: ray.get(ref) for key, ref in judged.items()}
    figures = {role: {"number": number, "metrics": _over_seeds([metrics.get((number, seed), {}) for seed in seeds])}
               for role, number in numbers.items()}
    taken = figures["winner"]["metrics"].get("test/bits_per_second", {}).get("mean", math.nan)
    classical = recordings.beside(baselines, opened, [r for r in (run.plan.rate_limit, taken) if r > 0], KEY)
    beside = {"latents": _hidden_neurons, "windows": _generators}.get(family(run.plan.config).gives)
    others = beside(run, opened, numbers["winner"]) if beside else {}
    held = _held_out(run, numbers, models, seeds) if run.plan.held_out else {}
    metric = record["metric"].replace("val/", "test/")
    values = {role: figures[role]["metrics"].get(metric, {}).get("values", [math.nan]) for role in numbers}
    difference = paired_difference(values["winner"], values["default"])._asdict()
    return {"when": now(), "fingerprints": {s.id: s.fingerprint for s in run.plan.sketches},
            "data_fingerprint": run.plan.agreement.fingerprint, "metric": metric, "direction": record["direction"],
            "versions": provenance.surroundings(run.cluster.slots.use_gpu), **figures, "difference": difference,
            "baselines": {"classical": ray.get(classical), "ridge": ray.get(ridge), **others}, **held,
            "verdict": "on the sealed blocks " + comparison(numbers["winner"], metric, record["direction"], difference,
                                                            len(seeds))}


def _hidden_neurons(run: Reopened, opened: recordings.Prepared, winner: int) -> dict[str, Any]:
    """Return the co-smoothing R2 of classical models on the test part, and how many latents served them best before.

    "cosmoothing": {model: R2} at the winner's latent size and at the model's own best, "cosmoothing_sizes", which is
    chosen on validation blocks of models of train blocks, as the winner's was.
    """
    import ray

    from raycal.metrics import cosmoothing

    config = run.study.get_trials(deepcopy=False)[winner].user_attrs["config"]
    before = recordings.prepare(run.found, run.plan.config.sessions, run.plan.agreement, say=lambda _: None)
    sizes = ray.get(recordings.beside(cosmoothing.best_sizes, before))
    latents = config["vae.latents"] + config["vae.window_latents"]
    return {"cosmoothing": ray.get(recordings.beside(cosmoothing.baselines, opened, latents, KEY, sizes)),
            "cosmoothing_sizes": sizes}


def _held_out(run: Reopened, numbers: Mapping[str, int], models: Mapping[tuple[int, int], Any],
              seeds: Sequence[int]) -> dict[str, Any]:
    """Return {"held_out": the same of the recordings that trained nothing}, every model brought to them."""
    config = run.study.get_trials(deepcopy=False)[numbers["winner"]].user_attrs["config"]
    of_roles = {role: [models[number, seed].read_bytes() for seed in seeds if models[number, seed]]
                for role, number in numbers.items()}
    latents = config["vae.latents"] + config["vae.window_latents"]
    return {"held_out": held_out.opened(run, of_roles, latents, KEY, _over_seeds)}


def _generators(run: Reopened, opened: recordings.Prepared, winner: int) -> dict[str, Any]:
    """Return {"generators": figures of the classical ones on the test blocks}."""
    import ray

    from raycal.metrics.real_windows import baselines

    length = run.study.get_trials(deepcopy=False)[winner].user_attrs["config"]["windows.length"]
    return {"generators": ray.get(recordings.beside(baselines, opened, length, KEY))}


def _judged(dataset, model: bytes) -> dict[str, float]:
    """Run as a task, on whichever node: measure an exported model on the test part."""
    from raycal.inference import restored_model
    from raycal.training import checkpoint
    from raycal.training.evaluate import evaluate

    trained = restored_model(checkpoint.load(io.BytesIO(model)))
    return evaluate(trained.model, dataset, trained.config, KEY)


def _over_seeds(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return {metric: values a seed, mean, low, high}, NaN where a seed has none."""
    names = dict.fromkeys(name for one in metrics for name in one)
    values = {name: [float(one.get(name, math.nan)) for one in metrics] for name in names}
    return {name: {"values": v, **mean_interval(v)._asdict()} for name, v in values.items()}


def _place(folder: RunFolder, number: int, seed: int, epochs: int):
    return folder.path / KEY / f"{number:04d}-seed{seed}-epochs{epochs}"
