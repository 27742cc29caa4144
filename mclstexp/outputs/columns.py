"""What columns of a prediction's spots are called, in maps and pages alike."""

SPOT_COLUMNS = {
    "familiarity": ("familiarity of the patch", "percentile among the reference's patches"),
    "similarity": ("similarity of the nearest neighbour", "cosine"),
    "n_effective": ("effective number of neighbours", "neighbours"),
    "share_neighbours": ("share of the neighbours' mean", "share of the departure from the mean"),
    "share_correction": ("share of the correction", "share of the departure from the mean"),
    "share_level": ("share of the slide's level", "share of the departure from the mean"),
}
"""Columns of ``obs``: a title, and what the values mean."""
