"""What is given in place of a file is called what it is."""

import os

import pytest

from mclstexp.data.genes.lists import read_gene_list
from mclstexp.data.genes.sets import read_gene_sets
from mclstexp.data.images import open_image
from mclstexp.data.positions.files import parse_coords
from mclstexp.data.readers import inspect_slides, read_slides
from mclstexp.data.readers.matrices import read_counts
from mclstexp.data.tables import read_table
from mclstexp.errors import InputError

READERS = {
    "Image": open_image,
    "Coordinates": parse_coords,
    "Gene list": read_gene_list,
    "Gene sets": read_gene_sets,
    "Table": read_table,
}

GIVEN = {
    "a folder": ("{tmp}", "this is a folder; a file is needed"),
    "a device": ("/dev/null", "this is a device; a file is needed"),
    "a pipe": ("{tmp}/pipe", "this is a pipe; a file is needed"),
    "a URL": ("https://host/slide.svs", "at a URL; download the file"),
    "a bucket": ("s3://lab/slide.svs", "at a URL; download the file"),
    "nothing": ("{tmp}/none.tif", "not exist"),
    "below a file": ("{tmp}/file/slide.tif", "not exist"),
    "a NUL": ("{tmp}/a\0b", "not exist"),
    "too long": ("{tmp}/" + "a" * 400, "cannot be read"),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("given", GIVEN)
def test_no_file(tmp_path, what, given):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    path, match = GIVEN[given]
    with pytest.raises(InputError, match=match) as caught:
        READERS[what](path.format(tmp=tmp_path))
    assert str(caught.value).startswith(what)
    assert "\n" not in str(caught.value)


def test_counts_and_slides_of_no_file(tmp_path):
    with pytest.raises(InputError, match="Counts /dev/null: this is a device"):
        read_counts(os.devnull)
    for read in (read_slides, inspect_slides):
        with pytest.raises(InputError, match="is a URL; download the slides"):
            read("s3://lab/refs")
        with pytest.raises(InputError, match="neither a folder"):
            read(os.devnull)
