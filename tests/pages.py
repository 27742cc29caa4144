"""Pages and servers as tests use them: small predictions, and a headless Chromium."""

import dataclasses
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from references import Library, quietly, without_counts

from mclstexp.config import Normalisation
from mclstexp.index.reference import Reference
from mclstexp.panel import GenePanel
from mclstexp.predict.evidence import NEIGHBOUR_SCHEMA
from mclstexp.predict.prediction import Prediction
from mclstexp.settings import to_dict

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--\'&lt;'
"""What a name could hold to break out of a page."""

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1500,1150",
)  # fmt: skip


def save_query(library: Library, folder: Path, name: str = "P3_A", slide: int = 4) -> Path:
    """Predict a slide of the library by its reference, and save it in ``folder``."""
    reference = Reference.open(library.folder, device="cpu", cache=False)
    prediction = quietly(reference, without_counts(library.slides[slide], name))
    path = folder / f"{name}.h5ad"
    prediction.save(path)
    return path


def plain_prediction(
    n: int = 9, genes: tuple[str, ...] = ("ERBB2", "CD3E"), k: int = 4, hostile: str = "", seed: int = 0
) -> Prediction:
    """Return a prediction of no reference, with every name ending in ``hostile``."""
    rng = np.random.default_rng(seed)
    spots = [f"s{i}{hostile}" for i in range(n)]
    side = int(np.ceil(np.sqrt(n)))
    row, col = np.divmod(np.arange(n), side)
    mean = rng.gamma(2.0, size=(n, len(genes))).astype(np.float32)
    query, rank = (index.ravel() for index in np.mgrid[:n, :k])
    reference = (query * 3 + rank * rank) % max(2 * n, 7)
    columns: dict[str, Any] = {
        "query_spot": np.asarray(spots, dtype=object)[query],
        "rank": rank + 1,
        "row_id": reference,
        "cohort": [f"c{hostile}"] * (n * k),
        "patient": [f"p{i % 3}{hostile}" for i in reference],
        "slide": [f"r{i % 5}{hostile}" for i in reference],
        "spot_id": [f"x{i}{hostile}" for i in reference],
        "array_row": reference,
        "array_col": reference,
        "x_px": reference * 10.0,
        "y_px": reference * 5.0,
        "similarity": 1 - 0.01 * rank,
        "label": [f"l{i % 2}{hostile}" for i in reference],
        "weight": np.repeat(rng.dirichlet(np.ones(k), size=n), 1, axis=0).ravel(),
    }
    return Prediction(
        slide_id=f"S1{hostile.replace('/', '')}",
        spot_ids=np.asarray(spots),
        xy_px=np.stack([200.0 + 300 * col, 200.0 + 300 * row], axis=1),
        genes=GenePanel(tuple(f"{gene}{hostile}" for gene in genes)),
        mean=mean,
        sd=mean / 2,
        lower=mean * 0.5,
        upper=mean * 1.5,
        obs={"familiarity": np.linspace(1, 100, n), "n_effective": np.full(n, k * 0.9), f"own{hostile}": np.arange(n)},
        var={"reliability": np.linspace(0.1, 0.5, len(genes), dtype=np.float32)},
        settings={
            "normalisation": to_dict(Normalisation()),
            "interval_level": 0.9,
            "command": f"mst query {hostile}",
            "notes": [f"Warning: {hostile}"],
        },
        spot_diameter_px=160.0,
        mpp=0.5,
        thumbnail=np.full((300, 300, 3), 230, np.uint8),
        thumbnail_scale=0.25,
        evidence=pa.table(columns).select(NEIGHBOUR_SCHEMA.names).cast(NEIGHBOUR_SCHEMA),
    )


def without_values(prediction: Prediction, gene: int, reason: str) -> Prediction:
    """Return the prediction with nothing known of a gene."""
    mean = prediction.mean.copy()
    mean[:, gene] = np.nan
    reasons = [reason if i == gene else "" for i in range(len(prediction.genes))]
    return dataclasses.replace(prediction, mean=mean, var={**prediction.var, "missing_reason": reasons})


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium of its own profile; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    program, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver here; make test installs them where apt-get can")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            browser.set_page_load_timeout(60)
            yield browser
        finally:
            browser.quit()


class Page:
    """A page in the browser, worked with as a reader does: by typing, clicking and keys."""

    def __init__(self, browser: Any, url: str) -> None:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.browser, self.by, self.keys = browser, By.CSS_SELECTOR, Keys
        browser.get_log("browser")
        browser.get(url)
        self.wait(lambda: self.one("#panels").get_attribute("aria-busy") == "false")

    def one(self, selector: str) -> Any:
        return self.browser.find_element(self.by, selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(self.by, selector)

    def wait(self, condition: Callable[[], object], seconds: float = 30) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, seconds, poll_frequency=0.05).until(lambda _: condition())

    def choose_gene(self, typed: str, gene: str) -> None:
        """Type a gene's first letters, and take what is offered first."""
        field = self.one("#gene-field input")
        field.click()
        field.send_keys(typed)
        self.wait(lambda: self.all("#gene-field li[aria-selected=true]"))
        field.send_keys(self.keys.ENTER)
        self.wait(lambda: self.shown == f"{gene} gene:mean")

    @property
    def shown(self) -> str:
        return str(self.one("body").get_attribute("data-shown"))

    def click_spot(self, x: float, y: float, panel: int = 0) -> str:
        """Click the map at a place of the slide; returns the spot that was chosen."""
        from selenium.webdriver import ActionChains

        script = (
            "const p = app.panels[arguments[0]].viewer, at = p.place(), box = p.element.getBoundingClientRect();"
            "return [at.x + arguments[1] * at.scale - box.width / 2, at.y + arguments[2] * at.scale - box.height / 2]"
        )
        dx, dy = self.browser.execute_script(script, panel, x, y)
        element = self.all(".map")[panel]
        ActionChains(self.browser).move_to_element_with_offset(element, round(dx), round(dy)).click().perform()
        self.wait(lambda: self.all(".panel")[panel].get_attribute("data-spot"))
        return str(self.all(".panel")[panel].get_attribute("data-spot"))

    def press(self, key: str) -> None:
        self.one(".map .openseadragon-canvas").send_keys(key)

    def rows(self, panel: int = 0) -> list[list[str]]:
        """Texts of the table of neighbours."""
        script = (
            "return [...document.querySelectorAll('.panel')[arguments[0]].querySelectorAll('tbody tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return self.browser.execute_script(script, panel)  # type: ignore[no-any-return]

    def colour_at(self, x: float, y: float, panel: int = 0) -> list[int]:
        """Colour that the overlay has at a place of the slide: red, green, blue, alpha."""
        script = (
            "const p = app.panels[arguments[0]].viewer, at = p.place(), ratio = window.devicePixelRatio || 1;"
            "const x = (at.x + arguments[1] * at.scale) * ratio, y = (at.y + arguments[2] * at.scale) * ratio;"
            "return [...p.canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
        )
        return self.browser.execute_script(script, panel, x, y)  # type: ignore[no-any-return]

    def problems(self) -> list[str]:
        """What the console holds, apart from advice on how `colour_at` reads the canvas."""
        messages = [entry["message"] for entry in self.browser.get_log("browser")]
        return [message for message in messages if "willReadFrequently" not in message]

    def picture(self, name: str) -> None:
        """Save a screenshot where ``$MST_PICTURES`` says."""
        folder = os.environ.get("MST_PICTURES")
        if folder:
            self.browser.save_screenshot(str(Path(folder) / name))


@contextmanager
def served(*predictions: Path, **options: Any) -> Iterator[str]:
    """Serve predictions from a process of its own; yields the address, and stops it as Ctrl-C does."""
    import signal
    import subprocess

    words = ["serve", *map(str, predictions), "--device", "cpu"]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.argv = ['mst', *sys.argv[1:]]; from mclstexp.cli.app import main; main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    timer = threading.Timer(280, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        yield url
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert said.splitlines()[-1] == "stopped"
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
