"""Readers of reference slides: each folder is taken for the first layout that fits, and read slide by slide.

``layout.py`` says what a reader is and how to add one; ``discover.py`` has the list of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mclstexp.data.assemble import PixelSize
from mclstexp.data.readers.addresses import SlideAddresses, find_slides, wanted_sources
from mclstexp.data.readers.choices import Choices
from mclstexp.data.readers.report import SlideReport, inspect_slides
from mclstexp.data.readers.source import SlideSource
from mclstexp.data.readers.twins import said_of, twins
from mclstexp.notes import warn
from mclstexp.slide import MppSource, Slide
from mclstexp.text import some
from mclstexp.types import Progress, StrPath

__all__ = ["SlideAddresses", "SlideReport", "find_slides", "inspect_slides", "read_slides"]


def read_slides(
    refs: StrPath,
    *,
    mpp: float | None = None,
    mpp_from: MppSource | None = None,
    only: Sequence[str] | None = None,
    bin_um: int | None = None,
    cells: bool = False,
    pool_um: float | None = None,
    pictured: bool = False,
    on_progress: Progress | None = None,
) -> list[Slide]:
    """Read every slide under a path; of the images only the headers.

    Parameters
    ----------
    refs
        A folder of any layout that ``mst check --help`` lists, or of such folders; or one .h5ad, one .csv or one table
        of transcripts. A ``slides.csv`` wins where there is one.
    mpp
        Pixel size in um of all these slides, above what their files say.
    mpp_from
        Which pixel size to believe where they disagree: "given", "file" or "pitch".
    only
        Names of the slides to read.
    bin_um
        Side in um of Visium HD's bins: 2, 8 or 16; default: the largest that is there.
    cells
        Take segmented cells, a spot each, in place of bins or transcripts.
    pool_um
        Side in um of the squares that transcripts (default 100) or cells are pooled over.
    pictured
        Leave out, unread and with a warning, slides that have no image by the names of their files, where others do.
    on_progress
        Called with "reading slides", how many were read, and how many there are.

    Returns
    -------
    The slides in the order of their names.

    Raises
    ------
    InputError
        For the first thing that is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from mclstexp.data.synthetic import SlideSpec, write_cohort
    >>> folder = tempfile.TemporaryDirectory()
    >>> small = SlideSpec(n_genes=20, side_px=256, mpp=2.0)
    >>> cohort = write_cohort(f"{folder.name}/cohort", n_patients=1, slides_per_patient=1, spec=small)
    >>> read_slides(cohort.refs)
    [Slide('P1_A', patient P1 of simulated, 17 spots, 20 genes, image 256x256 px at 2 um)]
    """
    sources = wanted_sources(refs, Choices(bin_um, cells, pool_um), only)
    if pictured:
        sources = _pictured(sources)
    slides = []
    for done, source in enumerate(sources, start=1):
        slides.append(source.load(PixelSize(mpp, mpp_from)))
        if on_progress:
            on_progress("reading slides", done, len(sources))
    for name, same in twins(slides).items():
        warn(said_of(name, same))
    return slides


def _pictured(sources: list[SlideSource]) -> list[SlideSource]:
    blind = [source.slide_id for source in sources if not source.pictured]
    if not blind or len(blind) == len(sources):
        return sources  # where none has an image, whoever needs one says so of the slides
    warn(f"{len(blind)} of {len(sources)} slides have no image and are left out, unread: {some(blind)}.")
    return [source for source in sources if source.pictured]
