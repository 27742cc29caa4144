"""Query slides: an image and coordinates that belong together, or one line that says why not."""

import pytest
from PIL import Image, ImageDraw

from mclstexp.data.positions.query import CoordsColumns, read_query
from mclstexp.errors import InputError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    """A slide with a wide, off-centre piece of tissue; 5 um a pixel."""
    picture = Image.new("RGB", (1000, 700), (240, 240, 242))
    ImageDraw.Draw(picture).rectangle([520, 60, 960, 340], fill=(190, 90, 160))
    path = tmp_path_factory.mktemp("q") / "S1.png"
    picture.save(path)
    return path


def query_text(scale=1.0, swap=False, step=40):
    xy = [(x, y) for y in range(80, 330, step) for x in range(540, 950, step)]
    rows = [f"s{i},{(y if swap else x) * scale},{(x if swap else y) * scale}" for i, (x, y) in enumerate(xy)]
    return "id,x,y\n" + "\n".join(rows) + "\n"


def test_query_takes_the_slide_as_it_is(slide_file, tmp_path):
    slide = read_query(slide_file, write(tmp_path / "c.csv", query_text()), mpp=5.0)
    assert (slide.slide_id, len(slide), slide.mpp, slide.mpp_source) == ("S1", 77, 5.0, "given")
    assert slide.spots.counts is None
    assert slide.spots.array_col.max() == 10
    assert slide.notes == ()


def test_query_without_pixel_size_says_how_to_give_it(slide_file, tmp_path):
    slide = read_query(slide_file, write(tmp_path / "c.csv", query_text()))
    assert slide.mpp is None
    with pytest.raises(InputError, match="--mpp"):
        slide.require_mpp()
    known = read_query(slide_file, write(tmp_path / "c.csv", query_text()), columns=CoordsColumns(pitch_um=200.0))
    assert (known.mpp, known.mpp_source) == (5.0, "pitch")
    with pytest.raises(InputError, match=r"outside 0\.1 to 10"):
        read_query(slide_file, tmp_path / "c.csv", mpp=50.0)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (query_text(swap=True), "x and y look swapped"),
        (query_text(scale=4.0), r"outside the image .*at least 3\.\d+ times as large"),
        (query_text(scale=0.2), "times too small"),
        (query_text(scale=0.01), "array coordinates and not pixels"),
    ],
)
def test_query_with_coordinates_of_something_else(slide_file, tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        read_query(slide_file, write(tmp_path / "c.csv", text), mpp=5.0)


def test_swap_can_be_told_by_bounds_alone(tmp_path):
    Image.new("RGB", (1000, 300), (190, 90, 160)).save(tmp_path / "wide.png")
    text = "id,x,y\n" + "\n".join(f"s{i},{50 + i % 3 * 80},{60 + i * 40}" for i in range(20))
    with pytest.raises(InputError, match=r"x and y look swapped: exchanged, every spot lies inside"):
        read_query(tmp_path / "wide.png", write(tmp_path / "c.csv", text), mpp=1.0)


def test_image_that_is_all_tissue_or_none_says_nothing(tmp_path):
    for name, colour in [("tissue.png", (190, 90, 160)), ("glass.png", (240, 240, 242))]:
        Image.new("RGB", (1000, 700), colour).save(tmp_path / name)
        assert len(read_query(tmp_path / name, write(tmp_path / "c.csv", query_text()), mpp=5.0)) == 77


def test_query_knows_its_patient_and_takes_text_as_paths(slide_file, tmp_path):
    coords = write(tmp_path / "c.csv", query_text())
    slide = read_query(str(slide_file), str(coords), mpp=5.0, patient="P7")
    assert (slide.patient, slide.layout, slide.sources) == ("P7", "query", (slide_file, coords))
    assert slide.image.read_region(0, 0, 3, 3).shape == (3, 3, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,x,y\na,600,100\nb,,100\n", "c.csv: 1 of 2 spots have NaN .* first 'b' in row 2"),
        ("id,x,y\na,600,100\nb,1e308,100\n", "beyond"),
        ("id,x,y\na,600,100\nb,600,100\n", "lie at one point"),
        ("id,x,y\na,600,100\n,640,100\n", "empty id"),
    ],
)
def test_hostile_coordinates_of_a_query(slide_file, tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        read_query(slide_file, write(tmp_path / "c.csv", text), mpp=5.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_absurd_pixel_sizes_of_a_query(slide_file, tmp_path, mpp):
    for unit in ("px", "um"):
        with pytest.raises(InputError, match=r"outside 0\.1 to 10"):
            read_query(slide_file, write(tmp_path / "c.csv", query_text()), mpp=mpp, columns=CoordsColumns(units=unit))


def test_what_the_image_hides_is_in_the_notes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (1000, 700), (190, 90, 160)).save(tmp_path / "S1.jpg", exif=exif)
    text = query_text() + "again,540,80\n"
    slide = read_query(tmp_path / "S1.jpg", write(tmp_path / "c.csv", text), mpp=5.0)
    assert [note.split(" (")[0] for note in slide.notes] == [
        "the image's orientation tag", "1 of 78 spots lie at the place of another one.",
    ]  # fmt: skip


@pytest.mark.shared
def test_her2st_query_slide(shared):
    folder = shared / "her2st"
    (image,) = (folder / "ST-imgs/C/C6").glob("*.jpg")
    slide = read_query(image, folder / "ST-spotfiles/C6_selection.tsv")
    assert len(slide) == 179
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.688, abs=0.003), "pitch")
