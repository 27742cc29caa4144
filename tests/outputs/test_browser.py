"""The page and the server in a real browser: load, choose a gene, click a spot, read its neighbours.

With ``MST_PICTURES`` set to a folder the browser's pictures are saved there; ``MST_PREDICTION`` names the prediction to
show in them in place of a simulated one.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import HOSTILE, Page, chromium, plain_prediction, save_query, served
from references import Library, build_library

import mclstexp
from mclstexp.errors import MclstexpWarning
from mclstexp.predict.prediction import Prediction


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def saved(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("MST_PREDICTION")
    return Path(named) if named else save_query(library, tmp_path_factory.mktemp("saved"))


def gene_to_choose(prediction: Prediction) -> tuple[str, str]:
    """Return the most reliable gene but one, and letters of it that name it alone or first."""
    reliability = np.nan_to_num(np.asarray(prediction.var["reliability"]), nan=-1)
    gene = prediction.genes.symbols[int(np.argsort(-reliability)[1])]
    return gene, gene.lower()


MOST_PATCHES = """return (async () => {
  let best = 0, most = -1;
  for (let spot = 0; spot < app.panels[0].x.length; spot++) {
    const { rows } = await app.panels[0].source.neighbours(spot);
    const patches = rows.slice(0, 6).filter(row => row.patch).length;
    if (patches > most) { best = spot; most = patches; }
  }
  return best;
})()"""


def spot_to_choose(page: Page, prediction: Prediction) -> int:
    """Return a spot in the middle, or for pictures the one whose nearest neighbours have the most patches."""
    return int(page.browser.execute_script(MOST_PATCHES)) if "MST_PREDICTION" in os.environ else len(prediction) // 2


def evidence_text(page: Page) -> str:
    return str(page.one(".evidence").text)


def check_spot(page: Page, prediction: Prediction, number: int) -> None:
    """Click a spot and compare what is shown with the prediction's own neighbours."""
    x, y = prediction.xy_px[number]
    spot = page.click_spot(float(x), float(y))
    assert spot == prediction.spot_ids[number]
    truth = prediction.neighbours(spot)
    rows = page.rows()
    assert len(rows) == min(24, len(truth))
    assert [row[2] for row in rows] == truth["slide"].tolist()[: len(rows)]
    assert [row[3] for row in rows] == truth["spot"].tolist()[: len(rows)]
    assert float(rows[0][4]) == pytest.approx(truth["similarity"].iloc[0], abs=6e-5)
    if truth["label"].head(len(rows)).any():
        assert [row[6] for row in rows] == [label or "" for label in truth["label"].tolist()[: len(rows)]]
    heaviest = truth.groupby("patient")["weight"].sum().idxmax()
    assert f"by patient\n{heaviest}" in evidence_text(page)


def check_patches(page: Page) -> None:
    """Wait until the patches are drawn: pictures, not blanks."""
    script = (
        "const all = [...document.querySelectorAll('canvas.patch, canvas.own')]; return all.length > 1 && all.every("
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return d[3] === 255 })"
    )
    page.wait(lambda: page.browser.execute_script(script))


def test_a_report_is_read(browser: Any, saved: Path, tmp_path: Path) -> None:
    prediction = Prediction.load(saved)
    path = mclstexp.report(saved, tmp_path / "a.html", force=True)
    page = Page(browser, path.as_uri())
    gene, typed = gene_to_choose(prediction)
    assert page.shown.split()[0] != gene
    page.choose_gene(typed, gene)
    expected = prediction.var["reliability"][prediction.genes.find(gene)]
    assert f"{gene}: expected correlation within a slide {expected:.2f}" in page.one("#gene-note").text
    number = spot_to_choose(page, prediction)
    check_spot(page, prediction, number)
    check_patches(page)
    mean = prediction.mean[number, prediction.genes.find(gene)]
    assert f"{mean:.3g}"[:3] in evidence_text(page)
    page.picture("report.png")
    page.press(page.keys.ARROW_RIGHT)
    page.wait(lambda: page.one(".panel").get_attribute("data-spot") != prediction.spot_ids[number])
    moved = page.one(".panel").get_attribute("data-spot")
    where = prediction.xy_px[prediction.spot_ids.tolist().index(moved)] - prediction.xy_px[number]
    assert where[0] > abs(where[1])
    assert page.problems() == []


def test_colours_follow_values_and_layers(browser: Any, tmp_path: Path) -> None:
    prediction = plain_prediction(n=16)
    with pytest.warns(MclstexpWarning):
        page = Page(browser, mclstexp.report(prediction, tmp_path / "a.html").as_uri())
    page.choose_gene("erb", "ERBB2")
    page.browser.execute_script(
        "const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input'))"
    )
    highest, lowest = (int(end(prediction.mean[:, 0])) for end in (np.argmax, np.argmin))
    place = tuple(map(float, prediction.xy_px[highest]))
    page.wait(lambda: page.colour_at(*place) == [253, 231, 36, 255])  # the bright end of viridis
    assert page.colour_at(*map(float, prediction.xy_px[lowest]))[:3] == [68, 1, 84]
    page.one("#layer option[value='obs:familiarity']").click()
    page.wait(lambda: page.shown == "ERBB2 obs:familiarity")
    assert page.colour_at(*map(float, prediction.xy_px[-1]))[:3] == [253, 231, 36]
    page.one("#layer option[value='gene:width']").click()
    page.wait(lambda: page.shown == "ERBB2 gene:width")
    assert page.problems() == []


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    prediction = plain_prediction(hostile=HOSTILE)
    with pytest.warns(MclstexpWarning):
        page = Page(browser, mclstexp.report(prediction, tmp_path / "a.html", title=HOSTILE).as_uri())
    page.choose_gene("erbb2", f"ERBB2{HOSTILE}")
    assert page.click_spot(*map(float, prediction.xy_px[0])) == f"s0{HOSTILE}"
    assert page.rows()[0][1:3] == [f"r0{HOSTILE}", f"x0{HOSTILE} at 0, 0 px"]
    assert page.rows()[0][-1] == f"l0{HOSTILE}"
    assert page.browser.title == HOSTILE
    assert page.browser.execute_script("return window.hacked") is None
    assert page.all("img:not(.openseadragon-container img)") == []
    assert page.problems() == []


def test_predictions_side_by_side_share_gene_and_scale(browser: Any, tmp_path: Path) -> None:
    first, second = plain_prediction(n=16), plain_prediction(n=9, genes=("ERBB2", "VIM"), seed=1)
    with pytest.warns(MclstexpWarning):
        page = Page(browser, mclstexp.report([first, second], tmp_path / "a.html").as_uri())
    page.choose_gene("ERB", "ERBB2")
    ends = [[element.text for element in panel.find_elements(page.by, ".ends span")] for panel in page.all(".panel")]
    assert ends[0] == ends[1]
    page.choose_gene("VI", "VIM")
    assert "not in this prediction" in page.one("#gene-note").text
    page.click_spot(*map(float, second.xy_px[4]), panel=1)
    assert len(page.rows(1)) == 4
    assert page.rows(0) == []
    assert page.problems() == []


def test_a_server_is_asked(browser: Any, saved: Path) -> None:
    prediction = Prediction.load(saved)
    with served(saved) as url:
        page = Page(browser, url)
        gene, typed = gene_to_choose(prediction)
        page.choose_gene(typed, gene)
        check_spot(page, prediction, spot_to_choose(page, prediction))
        check_patches(page)
        other = page.browser.execute_script("return app.data.predictions[0].genes.symbols").copy()
        extra = "ERBB2" if "ERBB2" in other[len(prediction.genes) :] else other[-1]
        page.choose_gene(extra, extra)
        assert "plain weighted mean of its neighbours" in page.one("#gene-note").text
        page.choose_gene(typed, gene)
        next(one for one in page.all("button") if one.text == "Draw a region").click()
        draw_region(page)
        page.wait(lambda: any(one.text == "Remove regions" for one in page.all("button")), 250)
        assert "predicted anew as a slide of their own" in page.one(".panel p[role=status]").text
        page.browser.execute_script("window.scrollTo(0, 0)")
        page.picture("serve.png")
        assert page.problems() == []


def draw_region(page: Page) -> None:
    from selenium.webdriver import ActionChains

    actions = ActionChains(page.browser).move_to_element_with_offset(page.one(".map"), -110, -80).click_and_hold()
    actions.move_by_offset(60, 40).move_by_offset(60, 50).release().perform()
