"""What is published is the reference: its answers, and nothing of who built it."""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Folder, Site, WritableHub, serving
from references import Library, build_library, quietly, without_counts

from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError, InputError, MclstexpWarning
from mclstexp.index.published.copy import fetch_reference
from mclstexp.index.published.manifest import Manifest, parse_manifest
from mclstexp.index.published.wishes import names_of
from mclstexp.index.reference import Reference
from mclstexp.panel import GenePanel
from mclstexp.predict.prediction import Prediction

HTTP = {"allow_http": "true"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("secret-folder"))


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "user-cache" / "mclstexp"


def opened(path: Path | str, **options: object) -> Reference:
    return Reference.open(path, device="cpu", cache=False, **options)  # type: ignore[arg-type]


def publish(library: Library, target: Path | str, **wishes: object) -> Manifest | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        opened(library.folder).publish(target, **wishes)  # type: ignore[arg-type]
    place = Path(target)
    return parse_manifest((place / "published.json").read_bytes(), "it") if place.is_dir() else None


@pytest.fixture(scope="module")
def tree(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder, of everything that may be published."""
    folder = tmp_path_factory.mktemp("published") / "all"
    publish(library, folder, licence="cc-by-4.0", title="Four: slides")
    return folder


@pytest.fixture(scope="module")
def bare(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder without anything that can be left out."""
    folder = tmp_path_factory.mktemp("published") / "bare"
    publish(library, folder, without_counts=True, without_images=True, rename_patients=True)
    return folder


@pytest.fixture(scope="module")
def answer(library: Library) -> Prediction:
    return quietly(opened(library.folder), without_counts(library.slides[4]))


@pytest.fixture
def site(tree: Path) -> Iterator[Site]:
    with serving(files_of(tree), Folder) as running:
        yield running


def files_of(tree: Path) -> Site:
    names = json.loads((tree / "published.json").read_bytes())["files"]
    paths = ["published.json", *(file["path"] for file in names)]
    return Site({f"ref/{path}": (tree / path).read_bytes() for path in paths})


def same(ours: Prediction, theirs: Prediction) -> None:
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.obs["familiarity"], theirs.obs["familiarity"])
    left, right = (p.evidence.drop(["row_id"]).to_pydict() for p in (ours, theirs))
    assert left == right


def test_a_published_folder_answers_as_the_reference_does(library: Library, tree: Path, answer: Prediction) -> None:
    copy = opened(tree)
    same(quietly(copy, without_counts(library.slides[4])), answer)
    assert Reference.verify(tree).ok
    assert copy.info()["published"]["made_from"] == {"reference_id": opened(library.folder).info()["reference_id"],
                                                     "version": 1}  # fmt: skip
    seen = quietly(copy, without_counts(library.slides[0]))  # an image that is in it is known again
    assert any("this image is slide 'P1_A' of the reference" in note for note in seen.notes)


def test_without_counts_the_panel_answers_as_before(library: Library, bare: Path, answer: Prediction) -> None:
    copy, slide = opened(bare), without_counts(library.slides[4])
    ours = quietly(copy, slide)
    np.testing.assert_array_equal(ours.mean, answer.mean)
    np.testing.assert_array_equal(ours.obs["familiarity"], answer.obs["familiarity"])
    some = quietly(copy, slide, genes=list(answer.genes.symbols[:2]))
    np.testing.assert_allclose(some.mean, answer.mean[:, :2], rtol=2e-3, atol=2e-3)
    assert Reference.verify(bare).ok
    values = copy.values_of(ours.evidence, answer.genes.symbols[0], copy.model.config.normalisation)
    assert np.isfinite(values).all()


def test_without_counts_what_needs_them_is_refused_in_one_line(library: Library, bare: Path, tmp_path: Path) -> None:
    copy, slide = opened(bare), without_counts(library.slides[4])
    whole = opened(library.folder)
    other = next(symbol for symbol in whole.genes.symbols if symbol not in copy.panel.position)
    published = r"needs raw counts, and .* was published without them: the 30 genes of its panel"
    for call in (
        lambda: copy.query(slide, genes=[other]),
        lambda: copy.query(slide, genes=GenePanel((other,), ("",))),
        lambda: copy.query(slide, normalisation=Normalisation(target_sum=7.0)),
        lambda: copy.to_anndata(),
        lambda: copy.export(tmp_path / "a.parquet"),
        lambda: copy.values_of(quietly(copy, slide).evidence, other, whole.model.config.normalisation),
    ):
        with pytest.raises(InputError, match=published) as caught:
            call()
        assert "\n" not in str(caught.value)
    fetch_reference(bare, tmp_path / "own")
    with pytest.raises(InputError, match="Adding slides needs raw counts"):
        opened(tmp_path / "own").add([library.slides[4]])
    assert opened(tmp_path / "own").remove(slides=["patient-001-slide-1"]) == ["patient-001-slide-1"]


def test_expression_that_was_published_and_is_damaged_is_never_made_of_zeros(library: Library, bare: Path,
                                                                            tmp_path: Path) -> None:  # fmt: skip
    shutil.copytree(bare, tmp_path / "bare")
    path = tmp_path / "bare" / "expression" / "values"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(Exception, match="expression is missing or damaged, and the counts"):
        quietly(opened(tmp_path / "bare"), without_counts(library.slides[4]))
    assert [f.path for f in Reference.verify(tmp_path / "bare").findings if f.level == "error"] == ["expression/values"]


def bytes_of(folder: Path) -> bytes:
    return b"\n".join(
        path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    )  # fmt: skip


def test_no_byte_tells_where_it_was_made_by_whom_or_of_whom(tmp_path: Path) -> None:
    secret = tmp_path / "home-of-ada"
    secret.mkdir()
    slides = build_library(secret).slides
    library = Library(slides, opened(secret / "reference").model, secret / "reference")
    who = {"P1": "Hildegard", "P2": "Zenobia"}
    named = [dataclasses.replace(s, patient=who[s.patient], slide_id=f"{who[s.patient]} {s.slide_id}")
             for s in slides[:4]]  # fmt: skip
    library.model.slides = tuple({**s, "patient": who[s["patient"]], "slide": f"{who[s['patient']]} {s['slide']}"}
                                 for s in library.model.slides)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        Reference.build(secret / "named", named, library.model, message="of ward 7", command="mst build-index ~ada/")
        opened(secret / "named").tag("ward-7")
        opened(secret / "named").publish(tmp_path / "open", rename_patients=True)
        opened(secret / "named").publish(tmp_path / "names")
    told = bytes_of(tmp_path / "open")
    for word in (b"home-of-ada", str(tmp_path).encode(), b"Hildegard", b"Zenobia", b"ward", b"build-index ~ada"):
        assert word not in told, word
    assert all(b"home-of-ada" not in part and b"ward" not in part for part in [bytes_of(tmp_path / "names")])
    copy = opened(tmp_path / "open")
    assert {(e.patient, e.slide_id, e.image_path) for e in copy.store.entries} == {
        (f"patient-00{p}", f"patient-00{p}-slide-{s}", None) for p in (1, 2) for s in (1, 2)
    }
    assert copy.info()["n_patients"] == 2
    assert {s["patient"] for s in copy.model.slides} == {"patient-001", "patient-002"}
    before = quietly(opened(secret / "named"), without_counts(slides[4]), filter=filter_of("Hildegard"))
    after = quietly(copy, without_counts(slides[4]), filter=filter_of("patient-001"))
    np.testing.assert_array_equal(before.mean, after.mean)


def filter_of(patient: str):
    from mclstexp.index.filter import Filter

    return Filter(exclude_patients=(patient,))


def test_patients_keep_their_numbers_when_the_reference_grows(library: Library) -> None:
    entries = opened(library.folder).store.entries
    trained = [{"patient": "P9", "slide": "x of p9"}]
    names = names_of(entries[:2], trained, rename=True)
    more = names_of(entries, [], rename=True)
    assert names.patients == {"": "", "P1": "patient-001", "P9": "patient-002"}
    assert more.patients["P1"] == "patient-001"
    assert names.slides["x of p9"] == "patient-002-slide-1"
    kept = names_of([dataclasses.replace(entries[0], slide_id="tumour 1")], [], rename=True)
    assert kept.slides == {"tumour 1": "tumour 1"}
    assert names_of(entries, trained, rename=False).renamed_slides == []


def test_the_card_says_what_is_in_it(tree: Path, bare: Path) -> None:
    card = (tree / "README.md").read_text()
    assert card.startswith('---\npretty_name: "Four: slides"\nlicense: cc-by-4.0\ntags:\n')
    assert "| simulated | 2 | 4 (4 with image) | 144 | 40 |" in card
    assert "median PCC" in card
    assert "30 genes" in card
    told = (bare / "README.md").read_text()
    assert "license:" not in told.split("---")[1]
    assert "None was given" in told
    assert "- Raw counts:" in told


def test_what_is_published_is_only_read_and_a_copy_grows(library: Library, tree: Path, tmp_path: Path) -> None:
    reads = opened(tree)
    for change in (
        lambda: reads.add([library.slides[4]]),
        lambda: reads.remove(slides=["P1_A"]),
        lambda: reads.tag("mine"),
        lambda: reads.optimize(),
        lambda: Reference.verify(tree, repair=True),
        lambda: Reference.build(tree, library.slides[:1], library.model, force=True),
    ):
        with pytest.raises(InputError, match=r"is published and only read; .* mst fetch reference .* -o my-reference/"):
            change()
    fetch_reference(tree, tmp_path / "own")
    own = opened(tmp_path / "own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        assert own.add([library.slides[4]]).added == ["P3_A"]
    assert Reference.verify(tmp_path / "own").ok
    assert [row["message"] for row in own.history()] == ["version 1, published", "add 1 slide"]


def test_a_folder_is_published_once_and_replaced_by_a_later_version_alone(library: Library, tmp_path: Path) -> None:
    reference = library.copy(tmp_path / "reference")
    target = tmp_path / "shared"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        first = reference.publish(target)
        again = reference.publish(target)
        assert (first.sent, first.kept, again.sent, again.kept) == (first.n_files, 0, 0, first.n_files)
        reference.add([library.slides[4]])
        assert reference.publish(target).sent > 0
        assert len(opened(target).slides) == 5
        other = Reference.build(tmp_path / "other", library.slides[:1], library.model)
        with pytest.raises(ExistsAlreadyError, match=r"is published from another reference .* --force replaces it"):
            other.publish(target)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").touch()
        with pytest.raises(ExistsAlreadyError, match="was not published by this program; name another folder"):
            other.publish(tmp_path / "mine", force=True)
        with pytest.raises(InputError, match="is the reference itself"):
            other.publish(tmp_path / "other")
        with pytest.raises(InputError, match="a web server is not written to"):
            other.publish("https://example.org/x")
        other.publish(target, force=True)
    assert len(opened(target).slides) == 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_same_rows_make_the_same_files(library: Library, tree: Path, tmp_path: Path) -> None:
    publish(library, tmp_path / "again", licence="mit")
    names = [
        {path.name for path in (folder / "spots.lance" / "data").iterdir()} for folder in (tree, tmp_path / "again")
    ]
    assert names[0] == names[1]
    assert (tree / "README.md").read_text() != (tmp_path / "again" / "README.md").read_text()


def test_a_dry_run_writes_nothing(library: Library, tmp_path: Path) -> None:
    with pytest.warns(MclstexpWarning, match="No licence is given"):
        done = opened(library.folder).publish(tmp_path / "shared", dry_run=True)
    assert "# Spatial transcriptomics reference of 144 spots" in done.card
    assert not (tmp_path / "shared").exists()


def test_a_web_server_is_read_through_a_copy(library: Library, site: Site, answer: Prediction) -> None:
    uri = f"{site.endpoint}/ref"
    copy = opened(uri, storage_options=HTTP)
    ours = quietly(copy, without_counts(library.slides[4]))
    same(ours, answer)
    assert ours.settings["reference"] == str(copy.path) == uri
    asked = len(site.requests)
    opened(uri, storage_options=HTTP)
    assert [path for _, path, _ in site.requests[asked:]] == ["/ref/published.json"]
    assert Reference.verify(uri, storage_options=HTTP).ok
    with pytest.raises(InputError, match=rf"{uri} is published and only read"):
        copy.add([library.slides[4]])
    with pytest.raises(InputError, match="is published and only read"):
        Reference.verify(uri, storage_options=HTTP, repair=True)


def test_a_copy_serves_without_network_and_it_is_said(site: Site) -> None:
    uri = f"{site.endpoint}/ref"
    opened(uri, storage_options=HTTP)
    site.status["published.json"] = 503
    with pytest.warns(MclstexpWarning, match=r"so the copy that was fetched before is used: .*cannot be reached"):
        assert len(opened(uri, storage_options=HTTP)) == 144


def test_a_later_version_fetches_what_has_changed(library: Library, tree: Path, site: Site, tmp_path: Path) -> None:
    uri = f"{site.endpoint}/ref"
    opened(uri, storage_options=HTTP)
    reference = library.copy(tmp_path / "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        reference.add([library.slides[4]])
        reference.publish(tmp_path / "later", licence="cc-by-4.0", title="Four: slides")
    site.files = files_of(tmp_path / "later").files
    asked = len(site.requests)
    assert len(opened(uri, storage_options=HTTP).slides) == 5
    names = [path for _, path, _ in site.requests[asked:]]
    assert not [path for path in names if "/models/" in path and "config" not in path and "card" not in path]
    assert len([path for path in names if "/data/" in path]) == 1


def test_a_download_that_breaks_off_goes_on(site: Site) -> None:
    uri = f"{site.endpoint}/ref"
    weights = next(name for name in site.files if name.endswith(".safetensors"))
    site.status["weights.safetensors"] = 404
    with pytest.raises(Exception, match="does not exist"):
        opened(uri, storage_options=HTTP)
    del site.status["weights.safetensors"]
    site.cut_after = 100_000
    assert len(opened(uri, storage_options=HTTP)) == 144
    assert site.asked(weights)[-2:] == [None, "bytes=100000-"]


@pytest.fixture
def hub() -> Iterator[Site]:
    with serving(Site({}), WritableHub) as running:
        yield running


def test_the_hub_is_published_to_and_read(
    library: Library, hub: Site, answer: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = {**HTTP, "endpoint": hub.endpoint}
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        done = opened(library.folder).publish("hf://lab/four", storage_options=access, private=True)
        assert (hub.made["name"], hub.made["visibility"]) == ("four", "private")
        assert (done.sent, done.kept) == (done.n_files, 0)
        assert {"published.json", "README.md"} < hub.files.keys()
        again = opened(library.folder).publish("hf://lab/four", storage_options=access)
        assert (again.sent, again.kept) == (0, done.n_files)
    copy = opened("hf://lab/four", storage_options=access)
    same(quietly(copy, without_counts(library.slides[4])), answer)
    assert repr(copy).startswith("Reference('hf://lab/four', 144 spots")
    del hub.files["published.json"]
    with pytest.raises(ExistsAlreadyError, match="is a dataset of something else: it holds "):
        opened(library.folder).publish("hf://lab/four", storage_options=access)


def test_an_object_store_is_published_to_and_a_run_that_was_stopped_goes_on(
    library: Library, s3: str, answer: Prediction, tmp_path: Path, user_cache: Path
) -> None:
    target = f"{s3}/{tmp_path.name}/shared"

    def stop(step: str, done: int, total: int) -> None:
        if step == "files published" and done == 5:
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)
        with pytest.raises(KeyboardInterrupt):
            opened(library.folder).publish(target, on_progress=stop)
        with pytest.raises(InputError, match="is not a reference"):
            opened(target)
        done = opened(library.folder).publish(target)
        assert (done.sent, done.kept) == (done.n_files - 5, 5)
        assert list((user_cache / "publishing").iterdir()) == []
        assert opened(library.folder).publish(target).sent == 0
    same(quietly(opened(target), without_counts(library.slides[4])), answer)
    with pytest.raises(InputError, match="is published and only read"):
        opened(target).remove(slides=["P1_A"])
    fetch_reference(target, tmp_path / "own")
    assert Reference.verify(tmp_path / "own").ok
