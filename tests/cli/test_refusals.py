"""What the commands refuse, before any work."""

import json
import shutil
from pathlib import Path

import anndata as ad
import pytest
from commands import Run, error_of, usage_of

from mclstexp.data.synthetic import CohortPaths
from mclstexp.errors import InputError


def test_outputs_are_not_overwritten_unasked(built: Path, world: CohortPaths, mst: Run) -> None:
    before = (built / "p.h5ad").read_bytes()
    commands = [
        ["train", world.refs, "-o", built / "model"],
        ["build-index", world.refs, "--model", built / "model", "-o", built / "reference"],
        ["query", world.query_image, world.query_coords, "-r", built / "reference", "-o", built / "p.h5ad"],
    ]
    for command in commands:
        assert "--force" in error_of(mst(*command, ok=False))
    assert (built / "p.h5ad").read_bytes() == before


@pytest.mark.parametrize("what", ["model", "reference", "image", "coords"])
def test_what_is_missing_is_named(built: Path, world: CohortPaths, mst: Run, tmp_path: Path, what: str) -> None:
    gone = tmp_path / "gone"
    if what == "model":
        result = mst("build-index", world.refs, "--model", gone, "-o", tmp_path / "r", ok=False)
    else:
        image = gone if what == "image" else world.query_image
        coords = gone if what == "coords" else world.query_coords
        reference = gone if what == "reference" else built / "reference"
        result = mst("query", image, coords, "-r", reference, "-o", tmp_path / "p.h5ad", ok=False)
    assert "gone" in error_of(result)
    assert not any(tmp_path.iterdir())


def test_unknown_settings_are_refused(world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    assert "encoder.nam" in error_of(mst("train", world.refs, "-o", tmp_path / "m", "--set", "encoder.nam=x", ok=False))


def test_weights_of_another_number_than_encoders_are_refused(world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    words = ("--encoder", "test_resnet,test_vit", "--encoder-weights", "mine.safetensors")
    said = error_of(mst("train", world.refs, "-o", tmp_path / "m", *words, ok=False))
    assert "2 encoders (--encoder), but weights of 1 (--encoder-weights)" in said
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "refs", "--device", "tpu"], "'--device'"),
        (["train", "refs", "--n-genes", "0"], "'--n-genes'"),
        (["train", "refs", "--n-genes", "-5"], "'--n-genes'"),
        (["train", "refs", "--seed", "-1"], "'--seed'"),
        (["train", "refs", "--seed", "99999999999999999999"], "'--seed'"),
        (["train", "refs", "--epochs", "0"], "'--epochs'"),
        (["train", "refs", "--recipe", "ours"], "'--recipe'"),
        (["train", "refs", "--mpp", "0"], "'--mpp'"),
        (["check", "refs", "--mpp", "-1"], "'--mpp'"),
        (["build-index", "refs", "--index", "hnsw"], "'--index'"),
        (["query", "slide.tif", "coords.csv", "-k", "1000000000"], "'-k'"),
        (["query", "slide.tif", "coords.csv", "-k", "0"], "'-k'"),
        (["query", "slide.tif", "coords.csv", "--weights", "uniform"], "'--weights'"),
        (["query", "slide.tif", "coords.csv", "--device", "tpu"], "'--device'"),
        (["query", "slide.tif", "coords.csv", "--units", "cm"], "'--units'"),
        (["neighbours", "p.h5ad", "1x1", "--top", "0"], "'--top'"),
        (["evaluate", "refs", "--seeds", "0,-1"], "--seeds"),
        (["evaluate", "refs", "--seeds", ","], "--seeds"),
        (["evaluate", "refs", "--seeds", "99999999999"], "--seeds"),
        (["demo", "--patients", "1"], "'--patients'"),
        (["info", "one/", "-r", "another/"], "--reference"),
        (["plot", "p.h5ad"], "--gene"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_option(mst: Run, words: list[str], says: str) -> None:
    assert says in usage_of(mst(*words, ok=False))


@pytest.mark.parametrize("option", [("--epochs", "5"), ("--lr", "0.1")])
def test_options_that_would_do_nothing_are_refused(
    world: CohortPaths, mst: Run, tmp_path: Path, option: tuple[str, str]
) -> None:
    said = usage_of(mst("train", world.refs, "-o", tmp_path / "m", *option, ok=False))
    assert option[0] in said
    assert "recipe default trains no network unless --finetune is given" in said
    assert not any(tmp_path.iterdir())


def test_an_encoder_beside_a_model_that_has_one_is_refused(
    world: CohortPaths, built: Path, mst: Run, tmp_path: Path
) -> None:
    build = ["build-index", world.refs, "--model", built / "model", "-o", tmp_path / "r"]
    assert "has its own encoder" in usage_of(mst(*build, "--encoder", "densenet121", ok=False))


def test_an_encoder_of_the_environment_is_no_mistake(
    world: CohortPaths, built: Path, mst: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise InputError("it got as far as building")

    monkeypatch.setattr("mclstexp.index.reference.Reference.build", stop)
    build = ["build-index", world.refs, "--model", built / "model", "-o", tmp_path / "r"]
    assert "as far as building" in error_of(mst(*build, env={"MST_ENCODER": "densenet121"}, ok=False))


@pytest.mark.parametrize("condition", ["total_counts > 500; slide_id = 'NOSUCH'", "1=1; drop table spots", "", "  "])
def test_conditions_that_would_be_cut_or_mean_nothing_are_refused(
    built: Path, world: CohortPaths, mst: Run, tmp_path: Path, condition: str
) -> None:
    query = ["query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad"]
    said = error_of(mst(*query, "--where", condition, ok=False))
    assert ("semicolon" if ";" in condition else "empty") in said
    assert not any(tmp_path.iterdir())


def test_an_output_of_another_kind_is_refused_before_anything_is_read(built: Path, mst: Run, tmp_path: Path) -> None:
    query = ["query", tmp_path / "gone.tif", tmp_path / "gone.csv", "-r", built / "reference"]
    assert ".h5ad" in error_of(mst(*query, "-o", tmp_path / "out.csv", ok=False))
    assert "no/such" in error_of(mst(*query, "-o", tmp_path / "no" / "such" / "p.h5ad", ok=False))


def test_another_runs_neighbours_are_refused(built: Path, mst: Run, world: CohortPaths, tmp_path: Path) -> None:
    for name in ("p.h5ad", "p.neighbours.parquet"):
        shutil.copy(built / name, tmp_path / name)
    spot = ad.read_h5ad(built / "p.h5ad").obs_names[0]
    mst("neighbours", tmp_path / "p.h5ad", spot)
    mst("query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "q.h5ad", "-k", 5)
    shutil.copy(tmp_path / "q.neighbours.parquet", tmp_path / "p.neighbours.parquet")
    said = error_of(mst("neighbours", tmp_path / "p.h5ad", spot, ok=False))
    assert "p.neighbours.parquet is not of the same run as p.h5ad" in said


def test_an_unknown_gene_brings_near_names(built: Path, world: CohortPaths, mst: Run, tmp_path: Path) -> None:
    query = ["query", world.query_image, world.query_coords, "-r", built / "reference", "-o", tmp_path / "p.h5ad"]
    said = error_of(mst(*query, "--genes", "erbb2", ok=False))
    assert "'erbb2' was measured by no slide of the reference; near: ERBB2" in said
    assert "mst info --genes" in said
    listed = mst("info", built / "reference", "--genes").stdout.splitlines()
    assert len(listed) == 80
    assert any(line.split("\t")[0] == "ERBB2" for line in listed)
    assert any(
        row["symbol"] == "ERBB2" for row in json.loads(mst("info", built / "reference", "--genes", "--json").stdout)
    )
    assert "near: ERBB2" in error_of(
        mst("plot", built / "p.h5ad", "--gene", "erbb2", "-o", tmp_path / "m.png", ok=False)
    )


def test_an_address_that_holds_no_reference(mst: Run, tmp_path: Path) -> None:
    for place, why in (
        ("ftp://bucket/ref", "a reference lies in a folder or at s3:// or gs:// or az://, not at ftp://"),
        ("s3://bucket", "it is written s3://bucket/reference"),
        ("s3://bucket/ref?endpoint_override=x", "does not name a folder of a bucket"),
        ("s3://key:secret@bucket/ref", "s3://bucket/ref: credentials do not belong into the address"),
    ):
        for command in (["build-index", "refs/", "-o", place], ["info", place], ["verify", "-r", place]):
            said = error_of(mst(*command, ok=False))
            assert why in said
            assert "secret" not in said
    assert not Path("s3:").exists()


def test_storage_options_are_for_object_stores(mst: Run, tmp_path: Path) -> None:
    said = usage_of(mst("info", tmp_path, "--storage-option", "aws_region=x", ok=False))
    assert "of use for a reference at a URI" in said
    for pair in ("aws_region", "=x", "aws_region="):
        said = usage_of(mst("info", "s3://bucket/ref", "--storage-option", pair, ok=False))
        assert "is no KEY=VALUE" in said
    for command in (["plot", "a.h5ad", "--what", "embedding"], ["report", "a.h5ad"], ["serve", "a.h5ad"]):
        said = usage_of(mst(*command, "--storage-option", "aws_region=x", ok=False))
        assert "of use beside --reference" in said
        said = usage_of(mst(*command, "-r", tmp_path, "--storage-option", "aws_region=x", ok=False))
        assert "of use for a reference at a URI" in said
