"""The page in a real browser: quiet, sorted, filtered, chosen from, zoomed, printed, accessible, nowhere cut off."""

import json
import os
import re
import shutil

import pytest

from analysis.build import build, collect
from analysis.records.found import read_records
from analysis.report.drawn import Drawn
from analysis.report.own import sentences
from analysis.report.scoreboard import scoreboard
from analysis.tables.sheets import Statistics
from bench.config.sweep import expand
from tests.analysis import records
from tests.analysis.generated import generate
from tests.analysis.records import runs, tables_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    found = {"GP(LL)": {"energy": {"pearson": 0.5}, "force": {"pearson": 0.25}}}
    extra = [records.record("MaxDet", "GP(LL)", s, [8.0, 6.0, 4.0 + s], correlations=found) for s in range(2)]
    altered = [records.record("MaxDiag", "RND", 0, [3.0, 2.0], deviations={"scenario.pool": 7})]
    failed = [records.record("LCMD", "FEAT(RP)", 0, [3.0, 2.0], status="failed", final=30)]
    build(tables_of([*runs(), *extra, *altered, *failed]), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=arguments)
        yield found
        found.close()


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desktop", "phone"])
def page(request, browser, report):
    """The opened page; at the end nothing may have been said on the console and nothing asked of a network."""
    width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda wanted: asked.append(wanted.url))
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_what_is_written_in_a_figure_is_kept():
    figure = '<svg height="9.12345pt" viewBox="0 0 1 1"><path d="M 1.23456 0"/><text>0.001</text></svg>'
    inline = Drawn("name", "study", "heading", "caption", figure, []).inline()
    assert "M 1.2 0" in inline and "<text>0.001</text>" in inline


def texts(page, sheet, column):
    return page.locator(f'[data-sheet="{sheet}"] tbody td:nth-child({column})').all_inner_texts()


def test_nothing_overflows(page):
    for details in page.locator("details").all():
        details.evaluate("fold => fold.open = true")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    right = "[...document.querySelectorAll('main > section, .tile, header')].map(e => e.getBoundingClientRect().right)"
    assert max(page.evaluate(right)) <= page.viewport_size["width"]
    assert page.locator("svg.figure").count() >= 6


def test_filter_and_sort(page):
    assert len(texts(page, "runs", 1)) == 16
    runs_table = page.locator('[data-sheet="runs"]')
    runs_table.locator("input").fill("lcmd failed")
    assert texts(page, "runs", 2) == ["failed"]
    assert runs_table.locator(".count").inner_text() == "1 of 16 rows"
    runs_table.locator("input").fill("")
    seed = runs_table.locator("th button", has_text="Seed")
    column = runs_table.locator("th button").all_inner_texts().index("Seed") + 1
    seed.click()
    assert texts(page, "runs", column) == sorted(texts(page, "runs", column), key=int)
    seed.click()
    down = texts(page, "runs", column)
    assert down == sorted(down, key=int, reverse=True) and down[0] == "3"
    assert page.locator('[data-sheet="runs"] th[aria-sort="descending"]').inner_text().startswith("Seed")


def test_numbers_sort_as_numbers_and_lead_to_their_runs(page):
    page.locator("summary", has_text="Errors: last step").click()
    sheet = page.locator('[data-sheet="errors_final"]')
    heads = sheet.locator("th button").all_inner_texts()
    mae = heads.index("MAE") + 1
    sheet.locator("th button").nth(mae - 1).click()
    values = [float(text.split(" ")[0]) for text in texts(page, "errors_final", mae)]
    assert values == sorted(values) and len(values) > 4
    sheet.locator("input").fill("lcmd force")
    sheet.locator("tbody button.link").first.click()
    found = page.locator('[data-sheet="runs"] .count').inner_text()
    # four finished runs of LCMD + FEAT(LL) stand behind this number
    assert found == "4 of 16 rows" and set(texts(page, "runs", 5)) == {"LCMD + FEAT(LL)"}


def test_values_under_the_pointer_and_zoom(page):
    figure = page.locator('figure[data-figure="learning_curves_demo_force"]')
    figure.scroll_into_view_if_needed()
    svg = figure.locator("svg.figure")
    x, y, text = page.evaluate("data.values.learning_curves_demo_force[0]")
    at = svg.evaluate(
        "(svg, p) => { const q = new DOMPoint(...p).matrixTransform(svg.getScreenCTM()); return [q.x, q.y]; }", [x, y]
    )
    page.mouse.move(*at)
    assert page.locator("#tip").inner_text() == text and "seeds" in text
    figure.locator("[data-do=enlarge]").click()
    zoomed = page.locator("dialog svg.figure")
    before = zoomed.get_attribute("viewBox")
    box = zoomed.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        "old => document.querySelector('dialog svg.figure').getAttribute('viewBox') !== old", arg=before
    )
    assert float(zoomed.get_attribute("viewBox").split()[2]) < float(before.split()[2])
    narrow = float(zoomed.get_attribute("viewBox").split()[2])
    page.keyboard.press("+")
    assert float(zoomed.get_attribute("viewBox").split()[2]) < narrow
    page.keyboard.press("0")
    assert zoomed.get_attribute("viewBox") == before
    page.locator("dialog [data-zoom=close]").click()
    assert not page.locator("dialog").is_visible()


def test_values_by_keyboard_and_as_a_list(page):
    figure = page.locator('figure[data-figure="learning_curves_demo_force"]')
    figure.locator("svg.figure").focus()
    values = page.evaluate("data.values.learning_curves_demo_force.map(value => value[2])")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() == values[0]
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() == values[1]
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    figure.locator("[data-do=values]").click()
    assert figure.locator(".values li").all_inner_texts() == values
    figure.locator("[data-do=values]").click()
    assert figure.locator(".values").count() == 0


def test_algorithms_are_chosen_everywhere(page):
    """In figures with their legends, in the scoreboard and in tables."""
    page.locator("summary", has_text="Errors: last step").click()
    figure = page.locator('figure[data-figure="learning_curves_demo_force"]')
    ours = figure.locator('[data-method="LCMD + FEAT(LL)"]')
    assert ours.count() > 4 and ours.first.is_visible()
    page.locator('[data-toggle="LCMD + FEAT(LL)"]').uncheck()
    assert not any(part.is_visible() for part in ours.all())
    assert not page.locator('[data-board="RMSE"] tr[data-method="LCMD + FEAT(LL)"]').is_visible()
    assert "LCMD + FEAT(LL)" not in texts(page, "errors_final", 3)
    page.locator('[data-all=""]').click()
    assert texts(page, "errors_final", 3) == []
    page.locator('[data-all="true"]').click()
    assert ours.first.is_visible() and "LCMD + FEAT(LL)" in texts(page, "errors_final", 3)


def test_scoreboard(page):
    """A word and a colour for every cell, the interval and what these seeds detect; one measure at a time."""
    board = page.locator('[data-board="RMSE"]')
    row = board.locator('tr[data-method="LCMD + FEAT(LL)"]')
    assert row.locator(".badge").first.inner_text() == "better" and "4 seeds" in row.inner_text()
    told = row.locator("td").first.inner_text()
    assert re.search(r"-\d+\.\d%\s+-\d+\.\d% to -\d+\.\d%\s+detects \d+\.\d%", told), told
    assert board.locator('tr[data-method="MaxDiag + RND"] .badge').first.inner_text() == "baseline"
    good = row.locator(".badge").first.evaluate("badge => getComputedStyle(badge).color")
    assert good != page.evaluate("getComputedStyle(document.body).color")
    page.locator('[data-measure="MAE"]').click()
    assert not board.is_visible() and page.locator('[data-board="MAE"]').is_visible()


def test_claims_stand_by_verdict_and_are_filtered(page):
    page.locator("#verdicts > details > summary").click()
    groups = page.locator(".group > summary .badge").all_inner_texts()
    assert groups == ["not yet tested"]
    page.locator("#claims-filter").fill("maxe lmnto")
    shown = [claim for claim in page.locator(".claim").all() if claim.is_visible()]
    assert shown and all("LMNTO" in claim.inner_text() for claim in shown)
    assert page.locator("#claims-count").inner_text() == f"{len(shown)} of 57 claims"


def test_what_is_there_and_what_is_missing(browser, tmp_path):
    collected = collect_few(tmp_path)
    build(collected, tmp_path / "out")
    context = browser.new_context()
    opened = context.new_page()
    opened.goto((tmp_path / "out" / "report.html").as_uri())
    there, missing = opened.locator(".there").all()
    assert "Aspirin, 10 → 100: MaxDiag + RND (2 seeds), LCMD + FEAT(LL) (2 seeds)" in there.inner_text()
    missing.locator("summary").click()
    assert "all 225 runs" in missing.inner_text() and "221 of 225 runs" in missing.inner_text()
    assert opened.locator("figcaption", has_text="Minibatch 10, inferred").count() > 0
    assert opened.locator(".own").count() == 0 and opened.locator("#verdicts .group").first.is_visible()
    context.close()


def test_own_studies_are_told_first_and_what_is_the_paper_s_is_folded(page):
    (told,) = page.locator("header .own").all_inner_texts()
    assert told.startswith("Demo: aspirin (revised MD17), 10 → 40: 14 finished runs, 4 algorithms on 2 to 4 seeds.")
    assert "LCMD + FEAT(LL) has the lowest force RMSE at 30 training structures: 9.21 kcal/mol/Å." in told
    assert re.search(r"The seeds tell it from random selection: better \(-20 %, 95 % interval -2\d % to -1\d %\)", told)
    assert "paper" not in page.locator("header").inner_text() and "Altered:" in page.locator("header").inner_text()
    assert page.locator("#verdicts > details:not([open])").count() == 1


@pytest.mark.parametrize(
    ("seeds", "curves", "told"),
    [
        (2, {"LCMD": 4.0, "MaxDiag": 5.0}, "there are 2 seeds of both, and 3 are the fewest that are judged"),
        (1, {"LCMD": 4.0, "MaxDiag": 5.0}, "there is 1 seed of both, and 3 are the fewest that are judged"),
        (2, {"LCMD": 6.0, "MaxDiag": 5.0}, "On fewer than 3 seeds nothing is judged."),
        (3, {"LCMD": 4.9, "MaxDiag": 5.0}, "These seeds do not tell it from random selection (-2 %"),
        (3, {"LCMD": 6.0, "MaxDiag": 5.0}, "No algorithm is better than it here."),
        (3, {"LCMD": 4.0}, "LCMD + FEAT(LL) ends at a force RMSE of 8"),
        (
            3,
            {"LCMD": 4.0, "MaxDet": 5.0},
            "There is no random selection from the same first structures beside it to compare with.",
        ),
    ],
)
def test_own_studies_in_a_sentence(seeds, curves, told):
    spread = {"LCMD": 0.1, "MaxDet": 0.0, "MaxDiag": 0.0}
    kernels = {"LCMD": "FEAT(LL)", "MaxDet": "GP(LL)", "MaxDiag": "RND"}
    contents = [
        records.record(name, kernels[name], seed, [9.0, last * (1 + spread[name] * (seed - 1))], scenario="mine")
        for name, last in curves.items()
        for seed in range(seeds)
    ]
    collected = tables_of(contents)
    found = Statistics.of(collected)
    (line,) = sentences(collected, scoreboard(found.means, found.paired, found.paper, collected.steps))
    assert line.startswith("mine: ") and told in line


def test_a_lower_error_on_too_few_seeds_is_not_passed_over_in_silence():
    counts = {("MaxDiag", "RND"): (5.0, 3), ("LCMD", "FEAT(LL)"): (4.0, 3), ("MaxDet", "GP(LL)"): (2.0, 2)}
    contents = [
        records.record(*names, seed, [9.0, last + 0.1 * seed], scenario="mine")
        for names, (last, seeds) in counts.items()
        for seed in range(seeds)
    ]
    collected = tables_of(contents)
    found = Statistics.of(collected)
    (line,) = sentences(collected, scoreboard(found.means, found.paired, found.paper, collected.steps))
    assert "Of those on at least 3 seeds, LCMD + FEAT(LL) has the lowest force RMSE" in line


def test_a_sentence_says_where_a_study_departs_from_its_file():
    contents = [
        records.record(name, kernel, 0, [9.0, 4.0], scenario="mine", deviations=deviations)
        for deviations in ({}, {"model.name": "SchNet"})
        for name, kernel in (("LCMD", "FEAT(LL)"), ("MaxDiag", "RND"))
    ]
    collected = tables_of(contents)
    found = Statistics.of(collected)
    told = sentences(collected, scoreboard(found.means, found.paired, found.paper, collected.steps))
    assert sorted(line.partition(":")[0] for line in told) == ["mine", "mine (model.name=SchNet)"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The report of a study of one's own, of the demo, of a single training and of the paper's data."""
    scenarios = ("md17_10_100", "demo", "single_training", "zinc")
    own = [
        records.record(selection, kernel, seed, [curve[0] + seed, curve[-1] + seed], scenario=scenario)
        for scenario in scenarios
        for (selection, kernel), curve in records.CURVES.items()
        for seed in range(3)
    ]
    build(tables_of(own), folder := tmp_path_factory.mktemp("mixed"))
    return folder / "report.html"


def test_own_studies_come_first_beside_the_paper_s(browser, mixed):
    opened = browser.new_page()
    opened.goto(mixed.as_uri())
    (told,) = opened.locator("header .own").all_inner_texts()
    assert told.startswith("zinc: 9 finished runs, 3 algorithms on 3 seeds.")
    assert "Compared with" in opened.locator("header").inner_text()
    assert re.sub(r"\s+", " ", opened.locator(".tile").first.inner_text()) == "9 runs of your own studies done"
    in_order = ["zinc", "Aspirin, 10 → 100", "Demo: aspirin (revised MD17), 10 → 40", "single_training"]
    assert [line.split(": MaxDiag")[0] for line in opened.locator(".there li").all_inner_texts()] == in_order
    folds = opened.locator("#curves > details")
    assert [fold.locator("summary").inner_text().partition(" (")[0] for fold in folds.all()] == [
        name.partition(" (")[0] for name in in_order
    ]
    assert folds.first.locator("figure").first.is_visible()
    assert opened.locator("#figures > details > summary").all_inner_texts()[1] == "zinc"
    heads = opened.locator("[data-board=RMSE] thead th").all_inner_texts()
    assert [head.partition(" (")[0] for head in heads] == ["Algorithm", *(name.partition(" (")[0] for name in in_order)]
    assert opened.locator("[data-sheet=completeness]").count() == 0
    assert opened.locator("#run tbody tr").all()[0].inner_text().startswith("zinc")
    opened.close()


def collect_few(folder):
    generate(folder, expand(["sweep=figure_3", "seed=0,1", "algorithm=maxdiag_rnd,lcmd_feat_ll"]), arrays=False)
    return collect(folder)


def test_no_table_is_cut_off(browser, report):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto(report.as_uri())
    opened.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    opened.wait_for_selector('[data-sheet="correlations"] td')
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert opened.evaluate(f"{wide}.map(e => e.getAttribute('aria-label'))") == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_accessible(browser, report, width, scheme):
    """No violation that axe-core finds, all folds open and both a list of values and rows of tables shown."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(report.as_uri())
    opened.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    opened.locator("[data-do=values]").first.click()
    found = axe.Axe().run(opened).response["violations"]
    assert {one["id"]: [node["html"][:200] for node in one["nodes"][:2]] for one in found} == {}
    context.close()


def test_printed_page_is_light_and_whole(browser, report):
    """Folds but those of tables are opened; colours are those of paper, whatever the theme."""
    context = browser.new_context(color_scheme="dark")
    opened = context.new_page()
    opened.goto(report.as_uri())
    opened.emulate_media(media="print", color_scheme="dark")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.locator("nav").is_visible() and not opened.locator(".methods").is_visible()
    folded = "[...document.querySelectorAll('details:not([open])')].every(fold => fold.querySelector('[data-sheet]'))"
    assert opened.evaluate(folded) and opened.locator("[data-board]").count() == 3
    assert all(board.is_visible() for board in opened.locator("[data-board]").all())
    assert len(opened.pdf()) > 10_000
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details:not([open])").count() > 3
    context.close()


def test_light_and_dark(page):
    background = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(background)
    page.locator("#theme").click()
    second = page.evaluate(background)
    assert {first, second} == {"rgb(255, 255, 255)", "rgb(21, 24, 28)"}
    ink = page.evaluate("getComputedStyle(document.querySelector('svg.figure text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color")


HOSTILE = "\"'><img src=y onerror=\"document.title='hit'\"><script>document.title='hit'</script><!--"


def test_what_records_say_is_text_and_never_markup(browser, tmp_path):
    """Records may come from anywhere: names, values and messages of theirs are shown, and do nothing."""
    contents = [*runs(), *(records.record(f"A{HOSTILE}", f"B{HOSTILE}", s, [4.0, 3.0, 2.0]) for s in range(3))]
    contents += [records.record("MaxDiag", "RND", 0, [3.0, 2.0, 1.0], deviations={f"key{HOSTILE}": HOSTILE})]
    failed = records.record("LCMD", "FEAT(RP)", 0, [3.0, 2.0], status="failed", final=30)
    contents += [failed | {"failure": {"error": HOSTILE, "message": HOSTILE}}, f"broken {HOSTILE}"]
    for content in contents:
        content if isinstance(content, str) else content["identity"]["dataset"].update(name=HOSTILE)
    build(tables_of(contents), tmp_path)
    context = browser.new_context()
    opened = context.new_page()
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((tmp_path / "report.html").as_uri())
    opened.get_by_text("Runs", exact=True).first.click()
    assert opened.title() != "hit" and said == []
    assert opened.locator("img").count() == 0 and opened.locator("script").count() == 2
    assert HOSTILE in opened.locator("#runs").inner_text()
    context.close()


def test_a_record_whose_scenario_s_name_is_a_path_is_damaged(tmp_path):
    content = records.record("MaxDiag", "RND", 0, [2.0, 1.0], scenario="../../up")
    folder = tmp_path / "runs" / content["run_id"]
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content))
    (told,) = read_records(tmp_path)[1]
    assert "is damaged" in told and "'../../up' is no name of a file" in told
