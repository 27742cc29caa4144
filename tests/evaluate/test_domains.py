"""Tissue domains: clusters of predictions beside the slides' labels."""

from dataclasses import replace

import numpy as np
from worlds import Told, oracle

from mclstexp.config import Normalisation
from mclstexp.data.genes.expression import expression_for
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.report import domains_figure
from mclstexp.evaluate.run import run_evaluation
from mclstexp.metrics import cluster_agreement, domain_clusters

SCALE = Normalisation()


def test_domains_are_compared_with_the_labels_and_drawn(world, result):
    scores = {(s.method, s.slide_id): s for s in result.scores if s.seed in (None, 0)}
    for slide in world.slides:
        mine = scores["perfect", slide.slide_id]
        truth, _ = expression_for(slide.spots, mine.genes, SCALE)
        assert (mine.values["ari"], mine.values["nmi"]) == cluster_agreement(
            domain_clusters(truth, slide.spots.labels), slide.spots.labels
        )
        assert scores["training mean", slide.slide_id].values["ari"] == 0
    assert [m.slide_id for m in result.domain_maps] == ["A1", "A2", "B1", "B2"]
    np.testing.assert_array_equal(result.domain_maps[0].clusters["perfect"], result.domain_maps[0].clusters["measured"])
    assert any(
        line.startswith("labels of A1, A2, B1, B2, C1 (ARI, NMI): the slide's own") for line in result.describe()
    )
    figure = domains_figure(result.domain_maps)
    assert len(figure.axes) == 4 * (2 + len(result.methods))
    assert domains_figure([]) is None


def test_unlabelled_spots_and_slides_take_no_part_in_domains(world):
    labels = world.slides[0].spots.labels.copy()
    labels[::3] = ""
    slides = [
        replace(s, spots=replace(s.spots, labels=labels if s.slide_id == "A1" else None), extra={"labels": "made up"})
        for s in world.slides[:3]
    ]
    result = run_evaluation(slides, [Told(oracle(world))], EvaluationProtocol(n_genes=60))
    values = {s.slide_id: s.values for s in result.scores}
    assert values["A1"]["ari"] is not None
    assert (values["A2"]["ari"], values["B1"]["nmi"]) == (None, None)
    (drawn,) = result.domain_maps
    assert (drawn.clusters["told"] == -1).tolist() == (labels == "").tolist()
    assert result.to_json()["domains_of_truth"]["A1"]["labels"] == "made up"
