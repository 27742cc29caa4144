"""What names do in the pages and tables that are written: nothing."""

import csv
import html
import io
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from pages import plain_prediction
from typer.testing import CliRunner
from worlds import World

import mclstexp
from mclstexp.cli.app import app
from mclstexp.config import Normalisation
from mclstexp.evaluate.baselines import TrainingMean
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.report import write_report
from mclstexp.evaluate.run import run_evaluation
from mclstexp.outputs.export import export
from mclstexp.panel import GenePanel

INLINE = "<img src=x onerror=alert(1)>\"'&"
"""As hostile as a slide's name may be, which has no slash."""

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>&"
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1")


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def formulas_in(text: str) -> list[str]:
    """Cells that a spreadsheet would compute: text, not numbers, that begins as a formula does."""
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    return [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number(cell)]


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_no_name_is_an_element_of_a_page(tmp_path: Path) -> None:
    pages = []
    for name, hostile in (("plain", ""), ("hostile", HOSTILE)):
        plain_prediction(hostile=hostile).save(tmp_path / f"{name}.h5ad")
        mclstexp.report(tmp_path / f"{name}.h5ad", tmp_path / f"{name}.html", title=f"t{hostile}")
        pages.append(Tags((tmp_path / f"{name}.html").read_text()).tags)
    assert [tag for tag, _ in pages[0]] == [tag for tag, _ in pages[1]]
    assert not any(name.startswith("on") for _, attributes in pages[1] for name in attributes)


def test_no_name_is_an_element_or_a_formula_of_an_evaluation(tmp_path: Path) -> None:
    genes = GenePanel((f"=1+1{HOSTILE}", *(f"G{i}" for i in range(69))))
    slides = World(names=(f"=A{INLINE}", f"+B{INLINE}", f"@C{INLINE}"), genes=genes).slides
    result = run_evaluation(slides, [TrainingMean(Normalisation())], EvaluationProtocol(n_genes=70))
    page = write_report(result, tmp_path / "out").read_text()
    tags = Tags(page).tags
    assert not any(tag == "script" or "onerror" in attributes for tag, attributes in tags)
    assert html.escape(INLINE) in page
    for path in (tmp_path / "out").glob("*.csv"):
        assert formulas_in(path.read_text()) == []


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, formula: str) -> None:
    prediction = plain_prediction(genes=(f"{formula}A", f"{formula}B"))
    spots = [f"{formula}{spot}" for spot in prediction.spot_ids]
    export(
        mclstexp.Prediction(**{**_fields(prediction), "spot_ids": spots, "evidence": _of_spots(prediction, formula)}),
        tmp_path / "a.csv",
    )
    text = (tmp_path / "a.csv").read_text()
    assert formula.strip() in text
    assert formulas_in(text) == []


def test_no_cell_of_the_neighbours_is_a_formula(tmp_path: Path) -> None:
    prediction = plain_prediction()
    table = prediction.evidence
    assert table is not None
    at = table.schema.get_field_index("patient")
    table = table.set_column(at, "patient", [["=1+1"] * table.num_rows])
    mclstexp.Prediction(**{**_fields(prediction), "evidence": table}).save(tmp_path / "a.h5ad")
    done = CliRunner().invoke(app, ["neighbours", str(tmp_path / "a.h5ad"), str(prediction.spot_ids[0]), "--csv"])
    assert done.exit_code == 0, done.output
    assert "'=1+1" in done.stdout
    assert formulas_in(done.stdout) == []


def _of_spots(prediction: mclstexp.Prediction, before: str) -> pa.Table:
    """Return the prediction's evidence for spots whose names begin so."""
    table = prediction.evidence
    at = table.schema.get_field_index("query_spot")
    return table.set_column(at, "query_spot", [[f"{before}{spot}" for spot in table["query_spot"].to_pylist()]])


def _fields(prediction: mclstexp.Prediction) -> dict[str, object]:
    return {name: getattr(prediction, name) for name in prediction.__dataclass_fields__}
