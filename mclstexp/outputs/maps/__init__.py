"""Pictures of a prediction. Drawn with matplotlib's own objects: no pyplot, no display, no setting left changed."""

from mclstexp.outputs.maps.genes import gene_column, gene_maps

__all__ = ["gene_column", "gene_maps"]
