"""Studies as a search leaves them, without one; one run of a real search; a real browser."""
from __future__ import annotations

import contextlib
import math
import pathlib
import shutil

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from raycal.config import Config
from raycal.metrics.intervals import mean_interval, paired_difference
from raycal.search.folder import RunFolder
from raycal.search.keeper import FACTS
from raycal.search.study import best_trial, plain
from raycal.training import checkpoint


@pytest.fixture
def told():
    """Make the frozen trial a search leaves; reports are its running bests by epoch."""
    def make(state=TrialState.COMPLETE, values=None, reports=(), params=None, **facts):
        params = params or {"quantizer.type": "vq"}
        known = {"quantizer.type": CategoricalDistribution(("vq", "ema")),
                 "quantizer.decay": FloatDistribution(0.8, 0.99), "optimizer.lr": FloatDistribution(1e-4, 1e-1)}
        return create_trial(state=state, values=values, params=params, distributions={k: known[k] for k in params},
                            user_attrs={"best_epoch": 2, "epochs": 3, "seconds": 1.5, "metrics": {}, **facts},
                            intermediate_values=dict(enumerate(reports, 1)))

    return make


@pytest.fixture
def study(told):
    """A default, a winner, one stopped, one over the rate limit, one crashed, one still running."""
    made = optuna.create_study(direction="minimize")
    made.add_trials([
        told(values=[0.5], ended_by="epochs", metrics={"val/nmse": 0.5}),
        told(values=[0.3], ended_by="patience", metrics={"val/nmse": 0.3, "val/r": 0.8},
             params={"quantizer.type": "ema", "quantizer.decay": 0.9}),
        told(TrialState.PRUNED, [0.2], (0.4, 0.2), reason="diverged"),
        told(TrialState.PRUNED, reason="over rate limit"),
        told(TrialState.FAIL, reason="error", message="ValueError: thirteen"),
        told(TrialState.RUNNING)])
    return made


SPACE = (pathlib.Path(__file__).parents[1] / "tiny.py").read_text()


@pytest.fixture(scope="session")
def searched(ray_session, tmp_path_factory) -> pathlib.Path:
    """The folder of a real search of six trials that all run to their end; tests that change it take a copy."""
    import raycal
    from raycal.sessions.simulate import simulate

    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.py").write_text(SPACE)
    sessions = [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"mouse-{n}").session for n in (8, 11)]
    raycal.search(str(folder / "tiny.py"), sessions, trials=6, pruner="none", sampler="random", quiet=True,
                  out=str(folder / "run"))
    return folder / "run"


@pytest.fixture
def a_copy(searched, tmp_path) -> pathlib.Path:
    return shutil.copytree(searched, tmp_path / "run")


class Made:
    """A run folder whose study follows a formula: what drives the value is known."""

    direction, metric = "minimize", "val/nmse"

    def __init__(self, path: pathlib.Path, trials: int = 40, seed: int = 0, epochs: int = 9, stopped: bool = True,
                 fingerprint: str = "d00d"):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.folder = RunFolder.create(str(path), "made")
        self.path, self.rng, self.epochs = self.folder.path, np.random.default_rng(seed), epochs
        storage = JournalStorage(JournalFileBackend(str(self.folder.journal)))
        self.study = optuna.create_study(study_name="raycal", storage=storage, direction=self.direction,
                                         sampler=optuna.samplers.RandomSampler(seed=seed))
        for number in range(trials):
            self._trial(number, stopped and number % 4 == 3)
        self.study.set_user_attr(FACTS, plain(self.facts(fingerprint)))
        (self.path / "config.yaml").write_text(Config().to_yaml())

    def _trial(self, number: int, stopped: bool) -> None:
        if number == 0:
            self.study.enqueue_trial({"quantizer.type": "vq", "optimizer.lr": 3e-3, "quantizer.codebook_size": 64})
        trial = self.study.ask()
        kind = trial.suggest_categorical("quantizer.type", ["vq", "ema"])
        lr = trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True)
        size = trial.suggest_int("quantizer.codebook_size", 16, 512, log=True)
        final = 0.4 + 0.1 * (math.log10(lr) + 2.5) ** 2 - 0.02 * math.log2(size / 64)
        if kind == "ema":
            final += 8 * (trial.suggest_float("quantizer.decay", 0.8, 0.99) - 0.92) ** 2 - 0.08
        courses = [final + 0.6 * 0.6**e + 0.02 * self.rng.standard_normal() for e in range(1, self.epochs + 1)]
        seen = courses[:2] if stopped else courses
        for epoch, value in enumerate(np.minimum.accumulate(seen), 1):
            trial.report(float(value), epoch)
        best = int(np.argmin(seen))
        config = {**Config().flat(), **trial.params, "training.epochs": self.epochs}
        metrics = {"val/nmse": seen[best], "val/r": 1 - seen[best], "val/bits_per_second": 5 * math.log2(size),
                   "val/usage": 0.5, "val/behavior_r2/running": 0.4}
        facts = {"config": config, "best_epoch": best + 1, "epochs": len(seen), "seconds": 1.5 + number % 3,
                 "objective_by_epoch": list(enumerate(seen, 1)), "metrics": metrics, "seed": 0,
                 **({"reason": "stopped early"} if stopped else {"ended_by": "epochs"})}
        for key, value in facts.items():
            trial.set_user_attr(key, plain(value))
        self.study.tell(trial, None if stopped else seen[best],
                        state=TrialState.PRUNED if stopped else TrialState.COMPLETE)

    def baselines(self):
        rates = (10.0, 20.0, 30.0, 40.0, 60.0)
        taken = best_trial(self.study).user_attrs["metrics"]["val/bits_per_second"]
        found = {f"{name} at {rate:.4g} bits/s": {"nmse": level * math.exp(-rate / 40), "asked": rate}
                 for rate in (*rates, taken)
                 for name, level in (("transform code", 0.7), ("residual k-means", 1.1), ("k-means", 1.3))}
        return {**found, "PCA 8": {"nmse": 0.2, "asked": math.nan}}

    def facts(self, fingerprint: str):
        pieces = {"train": [[0, 200], [400, 600]], "validation": [[240, 290], [640, 690]],
                  "test": [[330, 360], [730, 760]]}
        return {"space": "made", "objective": "nmse", "rate_limit": 30.0, "sessions": ["mouse-1", "mouse-2"],
                "fingerprints": {"mouse-1": "aa", "mouse-2": "bb"}, "data_fingerprint": fingerprint, "seconds": 90.0,
                "splits": dict.fromkeys(("mouse-1", "mouse-2"), {"frames": 760, "rate": 5.0, "gap": 40,
                                                                  "pieces": pieces}),
                "environment": {"command": "python run_search.py --space made", "versions": {"raycal": "0.1"},
                                "machine": "2 CPUs"},
                "ridge": {"running": {"r2": 0.3, "null": -0.1}}, "baselines": self.baselines()}

    def confirm(self, offsets=(0.02, 0.05, 0.01), seeds=(1, 2, 3)):
        """Write what `raycal confirm` writes: each trial reaches its search value plus an offset a seed."""
        sign = 1.0 if self.direction == "minimize" else -1.0
        done = [t for t in self.study.trials if t.state == TrialState.COMPLETE]
        best = sorted(done, key=lambda t: sign * t.value)[:3]
        table = {}
        for t in {t.number: t for t in [self.study.trials[0], *best]}.values():
            values = [t.value + o for o in offsets]
            table[str(t.number)] = {"params": t.params, "values": values, **mean_interval(values)._asdict(),
                                    "search_value": t.value, "epochs": [5] * len(seeds), "failed": []}
        winner = min(table, key=lambda n: sign * table[n]["mean"])
        self.study.set_user_attr("confirm", plain({
            "metric": self.metric, "direction": self.direction, "seeds": list(seeds), "trials": table, "default": "0",
            "winner": winner, "difference": paired_difference(table[winner]["values"], table["0"]["values"])._asdict(),
            "winners_curse": table[winner]["search_value"] - table[winner]["mean"],
            "verdict": f"trial {winner} beats the default", "when": "2026-11-27T00:00:00+00:00", "seconds": 9.0}))
        return self

    def test(self, again=False, winner=(0.36, 0.37, 0.35), seeds=(1, 2, 3)):
        """Write what `raycal test` writes."""
        def figures(number, values):
            rate = [self.study.trials[number].user_attrs["metrics"]["val/bits_per_second"]] * len(values)
            return {"number": number, "metrics": {
                key: {**mean_interval(v)._asdict(), "values": list(v)}
                for key, v in (("test/nmse", values), ("test/bits_per_second", rate))}}

        best = int(self.study.user_attrs["confirm"]["winner"])
        codes = {k: {**v, "nmse": 1.1 * v["nmse"]} for k, v in self.facts("")["baselines"].items()}
        opened = {"when": "2026-11-27T00:00:00+00:00", "fingerprints": {}, "versions": {}, "metric": "test/nmse",
                  "winner": figures(best, winner), "default": figures(0, [v + 0.1 for v in winner]),
                  "baselines": {"classical": codes, "ridge": {}}, "seeds": list(seeds),
                  "epochs": {"winner": 5, "default": 5}, "again": again, "earlier": ["2026-11-26"] * again}
        self.study.set_user_attr("test", plain([*self.study.user_attrs.get("test", []), opened]))
        return self

    def read(self):
        from raycal.report.record import Run

        return Run.read(str(self.path))


class MadeLatents(Made):
    """The same of a space of VAEs, whose best trial leaves the model of the fixture `vae`."""

    direction, metric = "maximize", "val/cosmoothing_r2"

    def __init__(self, path: pathlib.Path, model: pathlib.Path, trials: int = 8):
        self.config = checkpoint.load(model)["config"]
        super().__init__(path, trials, stopped=False)
        self.best = best_trial(self.study).number
        for folder in (self.folder.trial(self.best), self.path / "best"):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(model, folder / "model.pt")

    def _trial(self, number: int, stopped: bool) -> None:
        trial = self.study.ask()
        trial.suggest_float("kl.weight", 1e-3, 3.0, log=True)
        value = 0.3 + 0.01 * number
        metrics = {self.metric: value, "val/nmse": 0.7, "val/elbo": -20.0, "val/iwae": -19.0, "val/rate": 2.0,
                   "val/distortion": 18.0, "val/active_units": 3.0}
        facts = {"config": {**self.config, **trial.params}, "best_epoch": 2, "epochs": 3, "seconds": 1.5,
                 "objective_by_epoch": [[1, 0.1], [2, value], [3, value - 0.01]], "metrics": metrics, "seed": 0,
                 "ended_by": "epochs"}
        for key, fact in facts.items():
            trial.set_user_attr(key, plain(fact))
        self.study.tell(trial, value)

    def facts(self, fingerprint: str):
        return {**super().facts(fingerprint), "objective": "cosmoothing_r2", "sessions": ["s12", "s9"],
                "cosmoothing": {"ridge": 0.35, "PCA 5": 0.1, "factor analysis 5": 0.9}}

    def baselines(self):
        return {}

    def test(self, values=(0.36, 0.37, 0.35)):
        def figures(number, values):
            found = {**mean_interval(values)._asdict(), "values": list(values)}
            return {"number": number, "metrics": {"test/cosmoothing_r2": found}}

        opened = {"when": "2026-11-27T00:00:00+00:00", "fingerprints": {}, "versions": {}, "seeds": [1, 2, 3],
                  "metric": "test/cosmoothing_r2", "winner": figures(self.best, values),
                  "default": figures(0, [v - 0.1 for v in values]), "epochs": {"winner": 2, "default": 2},
                  "baselines": {"classical": {}, "ridge": {}, "cosmoothing_sizes": {"PCA": 5, "factor analysis": 2},
                                "cosmoothing": {"ridge": 0.2, "PCA 5": 0.1, "factor analysis 2": 0.5}}}
        self.study.set_user_attr("test", plain([opened]))
        return self


@pytest.fixture
def made(tmp_path):
    """Make runs in this test's folder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return lambda name="made", **how: Made(tmp_path / name, **how)


@pytest.fixture
def made_latents(tmp_path, vae):
    """Make a run of VAEs in this test's folder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return lambda name="latents", **how: MadeLatents(tmp_path / name, vae[0] / "model.pt", **how)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, the machine's own; while it is open an event loop runs, which other tests must not meet."""
    playwright = pytest.importorskip("playwright.sync_api")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("no chromium on this machine: the page was not opened in a browser")
    with playwright.sync_playwright() as p:
        with contextlib.closing(p.chromium.launch(executable_path=binary, args=["--no-sandbox"])) as opened:
            yield opened
