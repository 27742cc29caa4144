"""``mst demo``: the whole way on a simulated cohort, offline."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress, table
from mclstexp.cli.train import SMALL_ENCODER

if TYPE_CHECKING:
    from collections.abc import Callable

    from mclstexp.data.synthetic.cohort import CohortPaths
    from mclstexp.predict.prediction import Prediction

GENES = ("ERBB2", "COL1A1", "CD3E")


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("mst-demo"),
    patients: Annotated[
        int, typer.Option("--patients", min=2, max=1000, help="Reference patients, two slides each.")
    ] = 4,
    seed: options.Seed = 0,
    force: options.Force = False,
) -> None:
    """Simulate a cohort, train on it, index it, predict a held-out slide, and score and draw the prediction.

    Example: mst demo
    """
    from mclstexp.data.positions.query import read_query
    from mclstexp.data.readers import read_slides
    from mclstexp.data.synthetic.cohort import write_cohort
    from mclstexp.index.reference import Reference
    from mclstexp.storage import folder_in_place
    from mclstexp.train import train

    say, bar = _clock(), progress()
    # In its place from the start: what is written records the paths of what it was made from.
    with folder_in_place(output, force=force):
        say(f"simulating {patients} patients, two slides each, and a slide of another patient to predict")
        cohort = write_cohort(output / "cohort", n_patients=patients, seed=seed, on_progress=bar)
        slides = read_slides(cohort.refs)
        say(f"training on {len(slides)} slides (encoder {SMALL_ENCODER}, random weights)")
        model = train(
            slides,
            encoder=SMALL_ENCODER,
            encoder_weights="random",
            seed=seed,
            settings={"encoder.views": 1},
            cache=output / "cache",
            on_progress=bar,
        )
        model.save(output / "model")
        say("indexing them")
        reference = Reference.build(output / "reference", slides, model, command="mst demo", on_progress=bar)
        say(f"predicting {cohort.query_slide} from {reference!r}")
        query = read_query(cohort.query_image, cohort.query_coords)
        prediction = reference.query(query, command="mst demo", on_progress=bar)
        prediction.save(output / "prediction.h5ad")
        score = _score(prediction, cohort, output)
        say("done")
    emit(score)
    emit(f"\nLook at {output / 'ERBB2.png'}, open {output / 'prediction.h5ad'} in scanpy, or ask for the evidence:")
    emit(f"mst neighbours {output / 'prediction.h5ad'} {prediction.spot_ids[0]} --top 5")


def _clock() -> "Callable[[str], None]":
    """Return what says a line with the time since the start."""
    started = time.monotonic()

    def say(text: str) -> None:
        note(f"[{time.monotonic() - started:5.1f} s] {text}")

    return say


def _score(prediction: "Prediction", cohort: "CohortPaths", folder: Path) -> str:
    """Draw the marker genes beside their truth, and return the table of correlations."""
    import anndata as ad
    import numpy as np

    from mclstexp.config import Normalisation
    from mclstexp.data.genes.expression import expression_for
    from mclstexp.data.readers import read_slides
    from mclstexp.metrics import pearson_by_gene
    from mclstexp.outputs.maps import gene_maps
    from mclstexp.settings import from_dict

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
        column = prediction.genes.find(gene)
        if column is not None:
            truth_counts = ad.read_h5ad(cohort.query_truth)
            gene_maps(prediction, [gene], folder / f"{gene}.png", truth=truth_counts, show="expression")
            rows.append([gene, 1, float(correlation[column])])
    return table(["held-out slide", "genes", "mean PCC"], rows)
