"""The verbs in Python: what the command line calls, for notebooks and scripts."""
from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycal.config import Config
from raycal.errors import UserError, nearest


# The short names of the command line and of search(): precedence and checks are those of --set.
SHORT = {"trials": "search.trials", "epochs": "training.epochs", "seed": "training.seed",
         "objective": "search.objective", "sampler": "search.sampler", "pruner": "search.pruner",
         "workers_per_trial": "training.workers", "gpus_per_trial": "training.gpus", "device": "training.device",
         "split": "sessions.split", "confirm_top": "search.confirm_top", "confirm_seeds": "search.confirm_seeds"}


def search(space: str, sessions: Any = None, *, settings: Mapping[str, Any] | None = None,
           **options: Any) -> dict[str, Any]:
    """Search a space for the best model of the sessions; return the summary of the run.

    space: a name (`grvq`) or a file. sessions: paths, globs or Session objects; None simulates two.
    settings: {dotted name: value} that are held, and not searched. options: the flags of the command
    line by name (trials, epochs, seed, out, max_concurrent, max_minutes, address, storage, quiet ...).
    Raises UserError on anything that cannot work, before any worker starts.
    """
    from raycal.search.run import Options, run

    short = {SHORT[k]: options.pop(k) for k in list(options) if k in SHORT}
    known = {f.name for f in dataclasses.fields(Options)} - {"held", "sessions"}
    for name in set(options) - known:
        raise UserError(f"search: unknown option {name!r}{nearest(name, [*SHORT, *sorted(known)])}")
    loaded, config, held = configure(space, {**short, **(settings or {})}, {})
    return run(loaded, config, Options(sessions=listed(sessions), held=held, **options))


def train(config: Config | str = "grvq", sessions: Any = None, *, settings: Mapping[str, Any] | None = None,
          out: str | None = None, on_epoch: Callable[[Any], None] | None = None):
    """Train one configuration in this process, without Ray; return the trained model (raycal.inference.Trained).

    config: a Config, or the name of a space whose default is meant. The best epoch's weights are
    written to out/model.pt when out is given, pictures of it to out/figures/, and what its codes cost to
    out/code_length.json, of a model without codes how classical models do beside it to out/cosmoothing.json or
    out/generators.json, and of recordings held out the same to out/held_out.json. on_epoch hears every
    raycal.training.loop.Epoch.
    """
    import tempfile

    from raycal import animals, inference
    from raycal.search.plan import SIMULATED, simulated_sessions
    from raycal.training import checkpoint
    from raycal.training.loop import train as epochs

    if isinstance(config, str):
        config = configure(config, settings or {}, {})[1]
    elif settings:
        config = config.replace(settings)
    recordings = read(sessions, config.sessions.traces)
    if not recordings:
        print(SIMULATED)
        recordings = simulated_sessions()
    dataset, held = animals.prepared(recordings, config)
    final: dict[str, Any] = {}
    for epoch in epochs(config, dataset, save=final.update):
        if on_epoch:
            on_epoch(epoch)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(out or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(folder / "model.pt", checkpoint.export(final))
        trained = inference.load(folder)
        if out:
            _describe(trained, dataset, folder, final["best"]["epoch"])
            if held is not None:
                _describe_held_out(trained, held, folder)
        return trained


def _describe(trained: Any, dataset: Any, folder: pathlib.Path, epoch: int) -> None:
    """Write pictures of a model of that epoch, and what its codes cost on the validation part; of one without codes,
    how classical models do there."""
    import json

    from raycal.models import family
    from raycal.search.folder import write_atomically

    def write(name: str, found: Any) -> None:
        write_atomically(folder / name, json.dumps(found, indent=1))

    gives, config = family(trained.config).gives, trained.config
    if gives == "codes":
        from raycal.report import latents, pictures

        lengths, portrait = latents.judged(trained, dataset)
        write("code_length.json", lengths)
        pictures.write(folder, latents.draw(portrait))
    elif gives == "latents":
        from raycal.metrics.cosmoothing import baselines, best_sizes
        from raycal.report import frames, pictures

        n_latents = config.vae.latents + config.vae.window_latents
        write("cosmoothing.json", baselines(dataset, n_latents, sizes=best_sizes(dataset)))
        pictures.write(folder, frames.draw(frames.portrait(trained, dataset, epoch)))
    else:
        from raycal.metrics.real_windows import baselines as generators
        from raycal.report import generated, pictures

        write("generators.json", generators(dataset, config.windows.length))
        pictures.write(folder, generated.draw(trained.arrays["generated"]))


def _describe_held_out(trained: Any, held: Any, folder: pathlib.Path) -> None:
    """Write how far the model holds for recordings that trained nothing, and classical models fitted to the same."""
    import json

    from raycal import animals
    from raycal.search.folder import write_atomically

    reached = animals.of_model(held, (folder / "model.pt").read_bytes())
    classical = animals.of_classical(held, trained.config.vae.latents + trained.config.vae.window_latents)
    found = {id: {"model": reached[id], "classical": classical[id]} for id in reached}
    write_atomically(folder / "held_out.json", json.dumps(found, indent=1))


def configure(space: str, settings: Mapping[str, Any], config_file: Mapping[str, Any]):
    """Return (space, configuration, held settings): defaults < space < config file < settings.

    A setting that the space searches is held at the given value and leaves the search.
    """
    import numpy as np

    from raycal.search import space as spaces

    loaded = spaces.load(space)
    config = loaded.base.replace(config_file).replace(settings)
    searched = loaded.suggested(np.random.default_rng(0))
    held = {name: config.get(name) for name in settings if name in searched}
    loaded = dataclasses.replace(loaded, base=config, fixed=held)
    try:
        loaded.default()
    except UserError as e:
        raise UserError(f"--space {space}: its default configuration does not stand: {e}") from None
    return loaded, config, held


def run_section(settings: dict[str, Any]) -> dict[str, Any]:
    """Take the `run` section out of the settings of a run's config.yaml; refuse what cannot stand in it."""
    run = {k.removeprefix("run."): settings.pop(k) for k in [k for k in settings if k.startswith("run.")]}
    kinds = {"space": (str, "a word"), "sessions": (list, "a list of paths"), "held": (dict, "settings")}
    for key, value in run.items():
        if key not in kinds:
            raise UserError(f"unknown setting 'run.{key}'{nearest(key, kinds)} (run has {', '.join(kinds)})")
        if value is not None and not isinstance(value, kinds[key][0]):
            raise UserError(f"run.{key}={value!r}: must be {kinds[key][1]}")
    return run


def space_of(name: str | None, folder: str | None) -> str | None:
    """Return the space that the config.yaml of a run folder names; folder None: of a file that is no run's.

    Nothing in a run folder is executed unasked, for it may come from anywhere: raise UserError where the space is a file
    that lies there, or one that is not on this machine.
    """
    file = pathlib.Path(name or "")
    if folder is None or file.suffix != ".py":
        return name
    inside = pathlib.Path(folder).resolve() in file.resolve().parents
    if file.is_file() and not inside:
        return name
    copy = pathlib.Path(folder, file.name)
    fix = f"read its copy, then give it with --space {copy}" if copy.is_file() else "give it with --space FILE"
    raise UserError(f"{folder}: its space is the file {name}, which {'lies in the run folder' if inside else 'is not here'}"
                    f"; nothing in a run folder is executed unasked: {fix}")


def confirm(run: str, top: int = 5, seeds: int = 5, **options: Any) -> dict[str, Any]:
    """Train the `top` best trials of a run and its default again on fresh seeds; return the record of it.

    options: sessions (where they moved), space (a file that moved), max_concurrent, address, quiet, verbose.
    """
    from raycal.search import confirm

    return confirm.run(*of_run(run, options), top, seeds)


def open_test(run: str, seeds: int = 5, again: bool = False, **options: Any) -> dict[str, Any]:
    """Train a run's confirmed winner and its default on train and validation, and open the sealed test blocks.

    Return the receipt. Raise UserError where they were opened before, unless again is true. options as in confirm.
    """
    from raycal.search import sealed

    return sealed.run(*of_run(run, options), seeds, again)


def reproduce(run: str, trial: int, **options: Any):
    """Train one trial of a run again; return raycal.search.reproduce.Comparison. options as in confirm."""
    from raycal.search import reproduce

    return reproduce.run(*of_run(run, options), trial)


def of_run(run: str, options: Mapping[str, Any]):
    """Return (space, configuration, Options) of an earlier run, as its config.yaml and these options say."""
    from raycal.config import read_file
    from raycal.search.folder import config_of
    from raycal.search.ready import Options

    path, storage = local_run(run, "")
    settings = read_file(config_of(path, ""))
    section = run_section(settings)
    options = dict(options)
    name = options.pop("space", None) or space_of(section["space"], path)
    space, config, held = configure(name, section.get("held") or {}, settings)
    sessions = listed(options.get("sessions")) or section.get("sessions") or []
    return space, config, Options(**{**options, "sessions": sessions, "resume": path, "storage": storage, "held": held})


def local_run(run: str, flag: str = "--resume ") -> tuple[str, str | None]:
    """Return the folder of a run and where it is mirrored; one that is given by URI is fetched below runs/."""
    from raycal.search import storage

    if not storage.is_uri(run):
        return run, None
    return str(storage.fetch(run, pathlib.Path("runs"), flag)), storage.parent(run)


def listed(sessions: Any) -> Sequence[Any]:
    """Return sessions as a list: None, one path or Session, or many."""
    if sessions is None:
        return []
    return list(sessions) if isinstance(sessions, (list, tuple)) else [sessions]


def read(sessions: Any, traces: str = "") -> list:
    """Return Session objects for paths and Session objects alike, without Ray; none for None."""
    from raycal.sessions import readers

    items = listed(sessions)
    return readers.read(items, traces) if items else []
