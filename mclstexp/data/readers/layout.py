"""What a reader is: a module that knows one layout of slides on disk.

A reader only collects: it finds the files of a slide and hands over a `Draft` of what they say.
`mclstexp.data.assemble.build_slide` joins counts and coordinates, settles the pixel size, and checks the result, for
every reader in the same way. So a reader is short; ``her2st.py`` is one to copy from.

To add one, in about 60 lines:

1. Write a module beside this one with the names of `Layout`: ``NAME``, ``LOOKS_FOR``, ``matches`` and ``find``.
   ``find`` returns a `SlideSource` a slide, whose ``load`` builds the slide when it is called and not before.
2. Inside ``load``, fill a `Draft`: `parse_coords` reads files of coordinates, `read_counts` reads 10x HDF5, MEX and
   tables, `find_image` and `open_image` give the image. What was dropped or assumed goes into ``notes``, as sentences
   without names of files or spots, so that ``mst check`` can say once what holds for many slides. What is missing or
   damaged is an `InputError` of one line.
3. Put the module into ``LAYOUTS`` in ``discover.py``: before a layout whose ``matches`` would take its folders.
4. Where one path can hold one slide, add the names of `SlidePart`, and put the module into ``_PARTS`` in
   ``slides_csv.py``: then the column ``counts`` of a ``slides.csv`` may name such a path.
5. Test it with a folder that the test writes (``tests/layouts.py``): a whole slide, and each way it can be wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mclstexp.data.assemble import Draft
from mclstexp.data.positions.coordinates import Coordinates
from mclstexp.data.readers.choices import DEFAULT, Choices
from mclstexp.data.readers.source import SlideSource


class Layout(Protocol):
    """A module that finds slides of one layout."""

    @property
    def NAME(self) -> str:
        """Name of the layout, as ``Slide.layout`` gives it."""
        ...

    @property
    def LOOKS_FOR(self) -> str:
        """What the layout is known by, for the message that nothing was found."""
        ...

    def matches(self, path: Path) -> bool:
        """Whether a file or folder is of this layout, by names alone."""
        ...

    def find(self, path: Path, choices: Choices) -> list[SlideSource]:
        """List the slides of a path that matches, without reading them.

        Parameters
        ----------
        path
            A path that matches.
        choices
            How to read what can be read in several ways; most layouts have no use for it.

        Raises
        ------
        InputError
            When what names the slides is damaged.
        """
        ...


class SlidePart(Protocol):
    """A module that reads one path as one slide, as the column ``counts`` of a ``slides.csv`` may name it."""

    def accepts(self, path: Path) -> bool:
        """Whether the path is one slide of this layout, by names alone."""
        ...

    def read(
        self, path: Path, slide_id: str, *, coords: Coordinates | None = None, choices: Choices = DEFAULT
    ) -> Draft:
        """Read the slide.

        Parameters
        ----------
        path
            A path that the module accepts.
        slide_id
            Name of the slide.
        coords
            Coordinates from elsewhere, in place of the path's own.
        choices
            How to read what can be read in several ways.

        Raises
        ------
        InputError
            When something is missing or damaged.
        """
        ...
