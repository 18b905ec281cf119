"""The page in a real browser: drawn without an error or a request, in both schemes, by keyboard."""
from __future__ import annotations

import re

import pytest

from raycal.errors import UserError
from raycal.report import page


@pytest.fixture(scope="session")
def written(searched, tmp_path_factory):
    """The page of the real search."""
    return page.write([str(searched)], str(tmp_path_factory.mktemp("page") / "report.html"))


@pytest.fixture
def opened(browser):
    """Open a page and collect what it says on the console and asks of the network."""
    contexts = []

    def opened(path, width=1400, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(180_000)  # ms; a busy machine draws slowly
        contexts.append(context)
        tab, said, asked = context.new_page(), [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_function("document.documentElement.dataset.drawn")
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        return tab

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width, scheme", [(1400, "light"), (390, "dark")])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(opened, written, width, scheme):
    tab = opened(written, width, scheme)
    titles = [section.title for section in page.SECTIONS if section.gives != "latents"]
    assert tab.locator("h2").all_inner_texts() == titles
    plots = tab.locator(".plot")
    assert plots.count() >= 8 and plots.count() == tab.locator(".plot:has(svg.main-svg)").count()
    drawn = "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.trace, .shapelayer path'))"
    assert tab.evaluate(drawn)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("img").first.evaluate("image => image.complete && image.naturalWidth") > 300
    dark = scheme == "dark"
    ink = tab.evaluate("getComputedStyle(document.querySelector('.main-svg .xtick text')).fill")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 384) == dark, "light text on dark, dark on light"


def test_a_change_of_scheme_redraws_the_figures(opened, written):
    tab = opened(written)
    fill = "getComputedStyle(document.querySelector('.main-svg .xtick text')).fill"
    light = tab.evaluate(fill)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"{fill} !== '{light}'")


def test_the_keyboard_reaches_the_answer_and_opens_what_is_folded(opened, written):
    tab = opened(written)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.parentElement.open")


def test_a_figure_says_in_words_what_it_shows(opened, written):
    tab = opened(written)
    labels = tab.locator(".plot[role=img]").evaluate_all("all => all.map(p => p.getAttribute('aria-label'))")
    assert len(labels) == tab.locator(".plot").count() and all(len(label) > 8 for label in labels)
    assert tab.locator("img").first.get_attribute("alt").startswith("Validation windows of")


def test_runs_stand_side_by_side_and_under_each_other_on_a_phone(opened, made, tmp_path):
    first, second = made("first").confirm().test(), made("second", seed=1).confirm((0.01, 0.02, 0.03))
    path = page.write([str(first.path), str(second.path)], str(tmp_path / "both.html"))
    tab = opened(path)
    top = [box["y"] for box in (r.bounding_box() for r in tab.locator("#answer .run").all())]
    assert len(top) == 2 and top[0] == top[1]
    assert "over 3 common seeds" in tab.locator("#together").inner_text()
    axes = tab.locator("#anytime .plot").evaluate_all("all => all.map(p => p.layout.yaxis.range)")
    assert axes[0] == axes[1], "what is compared has one axis"
    tab.set_viewport_size({"width": 390, "height": 800})
    boxes = [r.bounding_box() for r in tab.locator("#answer .run").all()]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"] - 1
    tab.wait_for_function("document.documentElement.scrollWidth <= 390")


@pytest.mark.parametrize("width, scheme", [(1400, "dark"), (390, "light")])
def test_the_page_of_a_vae_shows_hidden_neurons_and_latents(opened, made_latents, width, scheme):
    tab = opened(page.write([str(made_latents().confirm().path)]), width, scheme)
    titles = tab.locator("h2").all_inner_texts()
    assert {"Hidden neurons", "Latents"} <= set(titles) and not {"Codebook usage", "Rate and distortion"} & set(titles)
    for section, plots in (("#hidden", 1), ("#latents", 2)):
        assert tab.locator(f"{section} .plot:has(svg.main-svg)").count() == plots
    assert tab.locator("#hidden img").first.evaluate("image => image.complete && image.naturalWidth") > 300
    assert "3 of 5 latents" in tab.locator("#latents").inner_text()
    assert "raycal traverse" in tab.locator("#latents").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_text_of_the_data_is_text(made, tmp_path):
    one = made(trials=6)
    facts = dict(one.study.user_attrs["facts"])
    evil = "</script><script>document.title='broken'</script><b>mouse"
    one.study.set_user_attr("facts", {**facts, "splits": {evil: facts["splits"]["mouse-1"]}, "sessions": [evil],
                                      "environment": {"command": evil, "versions": {}, "machine": evil}})
    html = page.write([str(one.path)]).read_text()
    assert "<script>document.title" not in html and "<b>mouse" not in html
    assert "&lt;/script&gt;&lt;script&gt;document.title" in html, "it is shown as it is"


def test_what_is_missing_is_said(made):
    one = made(trials=2)
    html = page.write([str(one.path)]).read_text()
    assert f"raycal confirm {one.path}" in html and "holds no examples" in html and "takes at least 5" in html


def test_failures_stand_with_their_reason_and_last_lines(made):
    from optuna.trial import TrialState

    one = made(trials=4)
    trial = one.study.ask()
    trial.set_user_attr("reason", "error")
    trial.set_user_attr("message", "Traceback:\n  deep\nValueError: thirteen <neurons>")
    one.study.tell(trial, state=TrialState.FAIL)
    html = page.write([str(one.path)]).read_text()
    assert "Trial 4: ValueError: thirteen &lt;neurons&gt;" in html and "its trainer raised an exception" in html


def test_a_pareto_study_has_its_front(tmp_path):
    import optuna
    from raycal.report.record import Run

    study = optuna.create_study(directions=["minimize", "maximize"])
    for k in range(4):
        facts = {"best_epoch": 1, "metrics": {}}
        study.add_trial(optuna.trial.create_trial(values=[0.1 * k, 0.2 * k], user_attrs=facts))
    from raycal.report.leaderboard import summary

    run = Run(tmp_path, study, summary(study, {"objective": "nmse,correlation", "sessions": ["a"], "seconds": 1.0}))
    assert len(page.sections.rate_distortion(run)[0].figure.data) == 2


def test_a_page_that_cannot_be_written_is_named(made):
    with pytest.raises(UserError, match="no/such/page.html: cannot be written"):
        page.write([str(made(trials=2).path)], "no/such/page.html")
