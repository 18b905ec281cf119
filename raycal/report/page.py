"""One HTML file of one or several searches: no network, no server, everything inside.

    raycal report runs/grvq-20260101-1        # writes runs/grvq-20260101-1/report.html
"""
from __future__ import annotations

import pathlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raycal.errors import UserError
from raycal.report import latent_sections, sections
from raycal.report.record import Run
from raycal.search.folder import write_atomically

NAME = "report.html"
FILES = pathlib.Path(__file__).with_name("page_files")


class Section(NamedTuple):
    id: str
    title: str
    lead: str
    content: Callable[[Run], Sequence[Any]]
    gives: str = ""  # what a model gives that this is of, "codes" or "latents"; "": any


SECTIONS = (
    Section("answer", "The answer", "", sections.answer),
    Section("anytime", "Best value against compute", "What more training time bought.", sections.anytime),
    Section("rate", "Rate and distortion", "Fewer bits and a smaller error are both better: down and to the left.",
            sections.rate_distortion, "codes"),
    Section("importance", "Importance of the parameters", "", sections.importance),
    Section("parallel", "Parallel coordinates", "Every line is a trial; below an axis pass those that have no such "
            "parameter.", sections.parallel),
    Section("slices", "Slices", "Each trial's value against one parameter; trials that lack it are left out.",
            sections.slices),
    Section("ranks", "Do early epochs tell?", "Rank correlation of the best value so far with the final value.",
            sections.ranks),
    Section("curves", "Learning curves", "", sections.curves),
    Section("reconstructions", "What the winner makes", "", sections.reconstructions),
    Section("hidden", "Hidden neurons", "What a neuron does, told by the others.", latent_sections.hidden, "latents"),
    Section("latents", "Latents", "A latent that costs nothing says nothing.", latent_sections.latents, "latents"),
    Section("usage", "Codebook usage", "", sections.usage, "codes"),
    Section("split", "The split", "Contiguous blocks with gaps; what is fitted is fitted on train alone.",
            sections.split),
    Section("failures", "What did not finish", "", sections.failures),
    Section("overtuning", "Overtuning", "Whether searching longer on validation blocks fooled the search.",
            sections.overtuning),
    Section("environment", "Environment and command", "", sections.environment))


def shown(runs: Sequence[Run]) -> list[Section]:
    """Return the sections that are of any of the runs."""
    return [s for s in SECTIONS if not s.gives or s.gives in {run.gives for run in runs}]


def write(paths: Sequence[str], out: str | None = None) -> pathlib.Path:
    """Write the page of these runs, given by folder or URI, and return its path.

    That is out; else RUN/report.html, and report.html here of several runs or of one that was downloaded.
    """
    runs = [Run.read(str(path)) for path in paths]
    beside = len(runs) == 1 and not runs[0].uri
    target = pathlib.Path(out) if out else (runs[0].path / NAME if beside else pathlib.Path(NAME))
    try:
        write_atomically(target, page(runs))
    except OSError as e:
        raise UserError(f"{target}: cannot be written ({e.strerror or e}); give another place with --out FILE"
                        ) from None
    return target


def page(runs: Sequence[Run]) -> str:
    """Return the HTML of the page."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FILES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    cells = [(section, [(run, section.content(run)) for run in runs]) for section in shown(runs)]
    if len({(run.metric, run.summary["data_fingerprint"]) for run in runs}) == 1:
        for section, parts in cells:
            if section.id in ("anytime", "rate"):
                _align([blocks for _, blocks in parts])
    return environment.get_template("page.html").render(
        runs=runs, title=" and ".join(run.name for run in runs), together=sections.together(runs), cells=cells,
        style=(FILES / "page.css").read_text(), script=(FILES / "page.js").read_text(), plotly=get_plotlyjs())


def _align(columns: Sequence[Sequence[Any]]) -> None:
    """Give figures that stand beside each other one upright axis."""
    for row in zip(*columns):
        ranges = [b.figure.layout.yaxis.range for b in row if b.kind == "plot"]
        if len(ranges) == len(columns) and all(ranges):
            for block in row:
                block.figure.update_yaxes(range=[min(r[0] for r in ranges), max(r[1] for r in ranges)])


def at_end(folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Write the page of a search that ends; what only describes a run must not take it down."""
    try:
        write([str(folder)])
    except Exception:
        say(f"the report was not written; the run is complete without it, raycal report {folder} tries again:\n"
            f"{traceback.format_exc()}")
