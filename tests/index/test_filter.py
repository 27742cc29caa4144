"""Which spots may be neighbours, and which genes may be asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulation import Simulation

import mclstexp
from mclstexp.errors import InputError
from mclstexp.index.filter import Filter, allowed_rows, choose_genes
from mclstexp.index.source import StoreSource
from mclstexp.index.store.store import ReferenceStore
from mclstexp.panel import GenePanel

SIM = Simulation(n_genes=30, n_panel=10, dim=8)
"""Slides 0 to 2 are of one patient and cohort, slide 3 of another patient, slide 9 of another cohort."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ReferenceStore:
    records = [SIM.record(number, 8) for number in (0, 1, 2, 3, 9)]
    return ReferenceStore.create(tmp_path_factory.mktemp("filter") / "ref", SIM.identity(), records)


def left(store: ReferenceStore, **conditions: object) -> dict[str, int]:
    """Return the number of spots that a filter leaves of each slide."""
    allowed = allowed_rows(store, Filter(**conditions))  # type: ignore[arg-type]
    assert allowed is not None
    source = StoreSource(store, "cpu")
    names = [entry.slide_id for entry in store.slides()]
    numbers = [int(allowed[source.spots_of(number)].sum()) for number in range(len(names))]
    assert sum(numbers) == allowed.sum(), "nothing is allowed that is no spot"
    return {name: n for name, n in zip(names, numbers, strict=True) if n}


def test_no_filter_allows_everything(store: ReferenceStore) -> None:
    assert allowed_rows(store, None) is None
    assert allowed_rows(store, Filter()) is None


def test_patients_slides_and_cohorts(store: ReferenceStore) -> None:
    assert left(store, exclude_patients=("patient0000",)) == {"slide0003": 8, "slide0009": 8}
    assert left(store, exclude_slides=("slide0001", "slide0009")) == {"slide0000": 8, "slide0002": 8, "slide0003": 8}
    assert left(store, only_cohorts=("cohort001",)) == {"slide0009": 8}
    assert left(store, only_cohorts=("cohort000",), exclude_patients=("patient0000",)) == {"slide0003": 8}


def test_a_condition_on_the_columns_joins_them(store: ReferenceStore) -> None:
    assert left(store, where="array_row = 0") == {f"slide000{number}": 3 for number in (0, 1, 2, 3, 9)}
    assert left(store, where="slide_id = 'slide0001' OR patient = 'patient0001'") == {"slide0001": 8, "slide0003": 8}
    assert left(store, where="array_row = 0", exclude_patients=("patient0000", "patient0001")) == {"slide0009": 3}
    totals = store.spots(StoreSource(store, "cpu").spots_of(0), ["total_counts"])["total_counts"].to_pylist()
    limit = sorted(totals)[4]
    assert left(store, where=f"total_counts > {limit} AND slide_id = 'slide0000'") == {
        "slide0000": sum(total > limit for total in totals)
    }


def test_the_filter_holds_for_what_is_found(store: ReferenceStore) -> None:
    allowed = allowed_rows(store, Filter(exclude_patients=("patient0000",), where="array_row < 2"))
    neighbours = StoreSource(store, "cpu").search(SIM.queries(4), 20, allowed=allowed)
    kept = neighbours.ids[neighbours.ids >= 0]
    assert len(kept) == 4 * 12
    assert allowed is not None
    assert allowed[kept].all()


def test_after_changes_the_filter_is_that_of_the_version(tmp_path: Path) -> None:
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), [SIM.record(0, 8), SIM.record(3, 8)])
    store.add([SIM.record(0, 6, variant=1), SIM.record(9, 8)], replace=True)
    assert left(store, exclude_slides=("slide0003",)) == {"slide0000": 6, "slide0009": 8}
    store.remove(slides=["slide0009"])
    with pytest.raises(InputError, match="no slide 'slide0009'; it has slide0000, slide0003"):
        left(store, exclude_slides=("slide0009",))
    old = ReferenceStore.open(tmp_path / "ref", version=1)
    assert left(old, exclude_slides=("slide0003",)) == {"slide0000": 8}


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ({"exclude_patients": ("nobody",)}, "no patient 'nobody'; it has patient0000, patient0001, patient0003"),
        ({"exclude_slides": ("slide",)}, "no slide 'slide'"),
        ({"only_cohorts": ("nowhere",)}, "no cohort 'nowhere'; it has cohort000, cohort001"),
        ({"exclude_patients": ("patient0000", "patient0001", "patient0003")}, "leaves no reference spot; loosen it"),
        ({"where": "array_row > 1000"}, "leaves no reference spot"),
        ({"where": "colour = 'red'"}, "colour"),
        ({"where": "not sql at all ("}, "cannot be used"),
    ],
)
def test_what_does_not_fit_the_reference_is_refused(
    store: ReferenceStore, conditions: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError, match=text) as error:
        left(store, **conditions)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["a > 1; b", "1=1; drop table spots", "patient = 'A'; --"])
def test_a_semicolon_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="holds a semicolon; one condition is needed, joined by AND"):
        Filter(where=where)


def test_a_semicolon_in_quotes_is_text(store: ReferenceStore) -> None:
    assert left(store, where="slide_id != 'a;b' AND patient != 'O''Hara; Mrs' AND slide_id = 'slide0003'") == {
        "slide0003": 8
    }


@pytest.mark.parametrize("where", ["", " ", "\n\t"])
def test_an_empty_condition_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="cannot be used: it is empty"):
        Filter(where=where)


def test_names_may_come_as_a_list_or_as_one(store: ReferenceStore) -> None:
    assert Filter(exclude_patients="B") == Filter(exclude_patients=["B"]) == Filter(exclude_patients=("B",))  # type: ignore[arg-type]
    assert hash(Filter(exclude_slides=["A", "B"])) == hash(Filter(exclude_slides=("A", "B")))  # type: ignore[arg-type]
    assert mclstexp.Filter is Filter


def test_the_panel_is_what_is_predicted_unless_others_are_asked_for(store: ReferenceStore) -> None:
    assert choose_genes(store, None) == SIM.panel
    assert choose_genes(store, "all").symbols == SIM.genes.symbols
    panel = GenePanel(("GENE00001", "UNKNOWN"))
    assert choose_genes(store, panel) is panel, "a panel is taken as it is: what nobody measured is missing"


def test_genes_come_in_the_asked_order_once(store: ReferenceStore) -> None:
    assert choose_genes(store, ["GENE00025", "GENE00003", "GENE00025"]).symbols == ("GENE00025", "GENE00003")
    assert choose_genes(store, "GENE00007").symbols == ("GENE00007",)
    assert choose_genes(store, np.array(["GENE00007", "GENE00001"])).symbols == ("GENE00007", "GENE00001")
    assert len(choose_genes(store, [])) == 0


def test_genes_are_found_by_ensembl_id_whatever_its_version(tmp_path: Path) -> None:
    panel = GenePanel(SIM.genes.symbols, tuple(f"ENSG{i:011d}.3" for i in range(30)))
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), [replace(SIM.record(0, 8), genes=panel)])
    asked = ["ENSG00000000004", "ENSG00000000005.9", "GENE00004"]
    assert choose_genes(store, asked).symbols == ("GENE00004", "GENE00005")


def test_an_unknown_gene_brings_near_names(store: ReferenceStore) -> None:
    for name in ("gene00003", "GENE0003"):
        with pytest.raises(InputError, match=rf"'{name}' was measured by no slide of the reference; near: .*GENE00003"):
            choose_genes(store, ["GENE00001", name])
    with pytest.raises(InputError, match=r"'XYZ' was measured by no slide of the reference; mst info --genes lists"):
        choose_genes(store, ["XYZ"])
