"""``mst demo``: the whole way on a simulated cohort, offline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress, table

if TYPE_CHECKING:
    from mclstexp.data.synthetic.cohort import CohortPaths
    from mclstexp.predict.prediction import Prediction

GENES = ("ERBB2", "COL1A1", "CD3E")
ENCODER = "test_resnet"
"""A timm model of 0.4 million parameters; with random weights it still sees colour and texture."""


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("mst-demo"),
    patients: Annotated[int, typer.Option("--patients", min=2, help="Reference patients, two slides each.")] = 4,
    seed: options.Seed = 0,
    force: options.Force = False,
) -> None:
    """Simulate a cohort, train on it, index it, predict a held-out slide, and score and draw the prediction."""
    import shutil
    import time

    from mclstexp.data.positions.query import read_query
    from mclstexp.data.readers import read_slides
    from mclstexp.data.synthetic.cohort import write_cohort
    from mclstexp.files import new_folder
    from mclstexp.index.pipeline import BuildOptions, QueryOptions, build_reference, predict_slide
    from mclstexp.model.folder import save_model
    from mclstexp.model.image.features import FeatureCache
    from mclstexp.train import TrainOptions, train

    started = time.monotonic()

    def say(text: str) -> None:
        note(f"[{time.monotonic() - started:5.1f} s] {text}")

    with new_folder(output, force=force) as work:
        say(f"simulating {patients} patients, two slides each, and a slide of another patient to predict")
        draw = progress("simulating")
        cohort = write_cohort(
            work / "cohort",
            n_patients=patients,
            seed=seed,
            on_progress=draw and (lambda _, done, total: draw(done, total)),
        )
        slides = read_slides(cohort.refs)
        config = options.model_config("default", encoder=ENCODER, seed=seed, settings=["encoder.views=1"])
        say(f"training on {len(slides)} slides, {sum(map(len, slides))} spots (encoder {ENCODER}, random weights)")
        run = TrainOptions(weights="random", cache=FeatureCache(work / "cache"), on_note=say)
        model = train(slides, config, run)
        save_model(work / "model", model.files)
        say("indexing them")
        build = BuildOptions(command="mst demo")
        store = build_reference(work / "reference", slides, model.files, model.encoders, build)
        say(f"predicting {cohort.query_slide} from {store.n_spots} reference spots")
        query = read_query(cohort.query_image, cohort.query_coords)
        prediction = predict_slide(query, model.encoders, store, QueryOptions(command="mst demo")).prediction
        prediction.save(work / "prediction.h5ad")
        score = _score(prediction, cohort, work)
        shutil.rmtree(work / "cache")
        say("done")
    emit(score)
    emit(f"\nLook at {output / 'ERBB2.png'}, open {output / 'prediction.h5ad'} in scanpy, or ask for the evidence:")
    emit(f"mst neighbours {output / 'prediction.h5ad'} {prediction.spot_ids[0]} --top 5")


def _score(prediction: "Prediction", cohort: "CohortPaths", work: Path) -> str:
    """Draw the marker genes beside their truth, and return the table of correlations."""
    import anndata as ad
    import numpy as np

    from mclstexp.config import Normalisation, from_dict
    from mclstexp.data.genes.expression import expression_for
    from mclstexp.data.readers import read_slides
    from mclstexp.metrics import pearson_by_gene
    from mclstexp.outputs.maps import gene_map

    (measured,) = read_slides(cohort.query_truth)
    scale = from_dict(Normalisation, prediction.settings["normalisation"])
    truth, _ = expression_for(measured.spots, prediction.genes, scale)
    position = {spot: i for i, spot in enumerate(measured.spots.spot_ids.tolist())}
    truth = truth[[position[spot] for spot in prediction.spot_ids.tolist()]]
    correlation = pearson_by_gene(truth, prediction.mean)
    highest = np.argsort(-truth.mean(axis=0))[:50]
    rows: list[list[object]] = [
        ["all genes", int(np.isfinite(correlation).sum()), float(np.nanmean(correlation))],
        ["50 highest", 50, float(np.nanmean(correlation[highest]))],
    ]
    for gene in GENES:
        column = prediction.genes.position.get(gene)
        if column is not None:
            gene_map(prediction, gene, work / f"{gene}.png", truth=ad.read_h5ad(cohort.query_truth))
            rows.append([gene, 1, float(correlation[column])])
    return table(["held-out slide", "genes", "mean PCC"], rows)
