"""``--where`` is a filter and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import Library

from mclstexp.errors import InputError
from mclstexp.index.filter import Filter, allowed_rows
from mclstexp.index.reference import Reference
from mclstexp.index.store.condition import one_condition

OTHER = [
    "total_counts > 0 LIMIT 1", "total_counts > 0 ORDER BY total_counts", "total_counts > 0 GROUP BY slide_id",
    "total_counts > 0 UNION SELECT 1", "total_counts > 0 FOR UPDATE", "total_counts > 0 OFFSET 2",
    "total_counts > 0 FETCH FIRST 1 ROW ONLY", "total_counts IN (SELECT 1)", "EXISTS (SELECT 1)",
    "total_counts > 0; DROP TABLE spots", "total_counts > 0 -- and patient = 'A'", "total_counts > 0 /* */",
    "1=1) OR (1=1", "patient = 'A", "random() > 0.5", "now() > '2020-01-01'", "read_csv('/etc/passwd')", "slide_id",
    "total_counts > 0 HAVING 1=1", "", "((1=1)",
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(library: Library) -> Reference:
    return Reference.open(library.folder, device="cpu", cache=False)


@pytest.mark.parametrize("where", OTHER)
def test_what_is_no_condition_is_refused(reference: Reference, where: str) -> None:
    with pytest.raises(InputError) as error:
        allowed_rows(reference.store, Filter(where=where))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "all_of_them"),
    [("total_counts >= 0", True), ("patient = 'P1; --'", False), ("(patient = 'P1') OR (patient = 'P2')", True),
     ("patient = 'O''Hara /*'", False), ("slide_id LIKE '%\"%'", False)],
)  # fmt: skip
def test_a_condition_selects(reference: Reference, where: str, all_of_them: bool) -> None:
    if all_of_them:
        assert np.asarray(allowed_rows(reference.store, Filter(where=where))).sum() == len(reference)
    else:
        with pytest.raises(InputError, match="leaves no reference spot"):
            allowed_rows(reference.store, Filter(where=where))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab=1'\"`();-/* \n", max_size=24))
def test_outside_quotes_nothing_ends_the_condition(text: str) -> None:
    try:
        whole = one_condition(text)
    except InputError:
        return
    depth, quote = 0, ""
    for place, letter in enumerate(whole):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"`":
            quote = letter
        else:
            assert letter != ";"
            assert whole[place : place + 2] not in ("--", "/*")
            depth += (letter == "(") - (letter == ")")
            assert depth > 0 or place == len(whole) - 1
    assert (depth, quote) == (0, "")
