"""A simulated cohort, to try the program offline.

`write_cohort` writes reference slides and a held-out one to a folder; `simulate_slide` makes one slide in memory.
Picture and counts of a slide come from the same tissue fields (``histology.py``), so there is something to learn.
"""

from mclstexp.data.synthetic.cohort import CohortPaths, write_cohort
from mclstexp.data.synthetic.histology import SlideSpec
from mclstexp.data.synthetic.slides import SimulatedSlide, simulate_slide

__all__ = ["CohortPaths", "SimulatedSlide", "SlideSpec", "simulate_slide", "write_cohort"]
