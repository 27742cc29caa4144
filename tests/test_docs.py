"""The documentation: links lead somewhere, examples run, references are what the program says, one sentence a line."""

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mclstexp
from mclstexp.config import EncoderSpec, ModelConfig, PatchSpec
from mclstexp.data.synthetic.cohort import write_cohort
from mclstexp.data.synthetic.histology import SlideSpec
from mclstexp.errors import InputError
from mclstexp.index.search.spot_index import SpotIndex
from mclstexp.index.search.vectors import recall_at_k
from mclstexp.model.image.encoder import ImageEncoder
from mclstexp.train import train

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in {anchor_of(line) for line in headings(file)}, f"{target} is no heading"


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def blocks(page: Path, language: str) -> list[str]:
    return [textwrap.dedent(code) for _, kind, code in FENCE.findall(page.read_text()) if kind == language]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_examples_compile_and_use_what_there_is(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mst":
                assert node.attr in mclstexp.__all__, f"mst.{node.attr} is not public"


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``refs/``, ``slide.tif`` and ``coords.csv``, the current one."""
    spec = SlideSpec(n_genes=60, side_px=640, mpp=1.0)
    cohort = write_cohort(tmp_path / "cohort", n_patients=2, slides_per_patient=1, spec=spec)
    cohort.refs.rename(tmp_path / "refs")
    cohort.query_image.rename(tmp_path / "slide.tif")
    cohort.query_coords.rename(tmp_path / "coords.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_cell_of_the_readme_runs(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small encoder of random weights and no cache, in place of a download."""
    settings = {"encoder.views": 1, "encoder.scales": [1.0], "shared.context_scales": [0], "patch.size_px": 32}
    small = {"encoder": "test_resnet", "encoder_weights": "random", "settings": settings, "cache": False}
    monkeypatch.setattr(mclstexp, "train", partial(train, **small, device="cpu"), raising=False)
    names: dict[str, object] = {}
    *lines, last = blocks(ROOT / "README.md", "python")[0].strip().splitlines()
    exec(compile("\n".join(lines), "README.md", "exec"), names)
    neighbours = eval(compile(last, "README.md", "eval"), names)
    prediction = names["pred"]
    assert isinstance(prediction, mclstexp.Prediction)
    assert prediction.adata.var_names.tolist() == ["ERBB2", "CD3E"]
    assert np.isfinite(prediction.adata.X).all()
    assert set(neighbours["slide"]) == {path.stem for path in (working_folder / "refs").glob("*.tif")}
    assert neighbours["weight"].sum() == pytest.approx(1, abs=1e-4)
    assert (working_folder / "reference").is_dir()


def test_the_second_cell_of_a_notebook_can_train_too() -> None:
    code = "import mclstexp as mst; assert callable(mst.train); assert callable(mst.train)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_contributing_shows_a_reader_that_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = as_module(0, monkeypatch)
    discover = sys.modules["mclstexp.data.readers.discover"]
    monkeypatch.setattr(discover, "LAYOUTS", (reader, *discover.LAYOUTS))
    folder = tmp_path / "S9"
    folder.mkdir()
    (folder / "counts.tsv").write_text("\tERBB2\tCD3E\na\t3\t0\nb\t1\t2\nc\t0\t1\nd\t1\t1\n")
    (folder / "spots.csv").write_text("id,x,y\na,40,40\nb,80,40\nc,40,80\nd,80,80\n")
    Image.new("RGB", (120, 90), (190, 90, 160)).save(folder / "image.png")
    (slide,) = mclstexp.read_slides(tmp_path, mpp=1.0)
    assert (slide.slide_id, slide.layout, len(slide)) == ("S9", "plain", 4)
    assert slide.image is not None
    counts, genes = slide.require_counts()
    assert counts[0, genes.find("ERBB2")] == 3


def test_contributing_shows_an_image_format_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = as_module(1, monkeypatch)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    image = images.NpyImage(tmp_path / "a.npy")
    assert image.size_px == (120, 90)
    np.testing.assert_array_equal(image.read_region(10, 20, 5, 6), pixels[20:26, 10:15])
    assert (image.read_region(-4, 0, 4, 4) == 255).all()
    assert image.thumbnail(30).shape == (22, 30, 3)
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"b\.npy"):
        images.NpyImage(tmp_path / "b.npy")


@pytest.mark.parametrize("pooling", ["last", "stages", "covariance"])
def test_contributing_shows_a_backbone_that_encodes(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_module(2, monkeypatch)
    patches = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    config = ModelConfig(encoder=EncoderSpec("blocks", pooling=pooling), patch=PatchSpec(size_px=64))  # type: ignore[arg-type]
    first, second = (ImageEncoder.create(config.encoder, "random").features(patches) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape[0] == 3
    assert first.std() > 0


def test_contributing_shows_a_search_backend_that_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    keys, live = unit_rows(rng.normal(size=(500, 8))), np.ones(500, dtype=bool)
    backend = as_module(3, monkeypatch).NearbyBackend(keys)
    index = SpotIndex(keys, live, tie_rank=lambda ids: ids, backend=backend)
    allowed = np.arange(500) % 2 == 0
    neighbours, truth = (index.search(keys[:20], 60, allowed=allowed, exact=exact) for exact in (False, True))
    assert allowed[neighbours.ids].all()
    assert 0.3 < recall_at_k(neighbours.ids, truth.ids) < 1
    np.testing.assert_array_equal(neighbours.ids[::2, 0], truth.ids[::2, 0])


def unit_rows(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def as_module(number: int, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a Python block of CONTRIBUTING.md as an imported module."""
    module = types.ModuleType(f"contributing_{number}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = blocks(ROOT / "CONTRIBUTING.md", "python")[number]
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


def test_the_reference_of_commands_is_what_the_cli_says() -> None:
    """Repeat ``python docs/make_cli.py > docs/reference/cli.md`` where it is not."""
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.reference() == (ROOT / "docs" / "reference" / "cli.md").read_text()


def test_options_in_the_docs_exist() -> None:
    """Every ``mst COMMAND --option`` that a page shows is an option of that command."""
    known = {name: set(re.findall(r"`(--?[a-z][a-z-]*)`", text)) for name, text in sections().items()}
    for page in PAGES:
        if "decisions" in page.parts or page.name == "CHANGELOG.md":
            continue
        for line in shell_lines(page):
            for command, rest in re.findall(r"\bmst (fetch [a-z0-9]+|[a-z-]+)((?: [^#|&;]*)?)", line):
                assert command in known, f"{name_of(page)}: mst {command}"
                strange = set(re.findall(r"(?<= )(--?[a-z][a-z-]*)\b", rest)) - known[command] - {"--help"}
                assert not strange, f"{name_of(page)}: mst {command} has no {strange}"


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    parts = re.split(r"^## mst ([a-z0-9 -]+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def shell_lines(page: Path) -> Iterator[str]:
    for language in ("sh", "console"):
        for code in blocks(page, language):
            for line in code.replace("\\\n", " ").splitlines():
                if language == "sh" or line.startswith("$ "):
                    yield re.sub(r'"[^"]*"', "TEXT", line)


def test_every_public_name_is_in_the_python_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert [name for name in mclstexp.__all__ if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("note", sorted(ROOT.glob("docs/decisions/*.md")), ids=name_of)
def test_a_decision_fits_a_screen(note: Path) -> None:
    assert len(note.read_text().splitlines()) <= 60


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    pages = {page for page in ROOT.glob("docs/**/*.md") if page != index}
    assert pages - linked == set()


SENTENCE_END = re.compile(r"[.!?][\"')*_]*\s+[\"'(*_`]*[A-Z`]")
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|cf|vs|Fig|No)\.")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_one_sentence_a_line(page: Path) -> None:
    double = [line for _, line in prose(page.read_text()) if SENTENCE_END.search(line)]
    assert double == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_sentence_is_broken_over_lines(page: Path) -> None:
    """A line that another one of the same paragraph follows has come to an end."""
    lines = list(prose(page.read_text()))
    broken = [
        line
        for (number, line), (following, after) in pairwise(lines)
        if following == number + 1 and not re.search(r"[.!?:,][\"')*_]*$", line) and not starts_item(after)
    ]
    assert broken == []


def starts_item(line: str) -> bool:
    return re.match(r"\s*([-*] |\d+\. )", line) is not None


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of prose: no code, tables, headings, front matter; links are their words."""
    inside = text.startswith("---\n") and "front matter"
    for number, line in enumerate(text.splitlines()):
        bare = line.strip()
        if inside == "front matter":
            inside = False if number and bare == "---" else inside
        elif bare.startswith("```"):
            inside = False if inside else "code"
        elif not inside and bare and not bare.startswith(("#", "|", "![", "<!--")) and not line.startswith("    "):
            plain = re.sub(r"`[^`]*`", "`code`", LINK.sub("]", line))
            yield number, ABBREVIATIONS.sub("short", re.sub(r"^(\s*)\d+\. ", r"\1- ", plain))
