"""The layouts of coordinate files: what the column names tell is taken, what they leave open is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mclstexp.data.paths import require_file
from mclstexp.data.positions.coordinates import Coordinates, check_places, naming
from mclstexp.data.positions.lattice import LEGACY_ST_PITCH_UM, VISIUM_PITCH_UM
from mclstexp.data.tables import delimiter_of, first_line, is_number, numbers, read_table
from mclstexp.errors import InputError
from mclstexp.text import duplicates, some
from mclstexp.types import IdArray, StrPath

if TYPE_CHECKING:
    import pandas as pd

_POSITIONS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
_ID_NAMES = ("barcode", "barcodes", "id", "spot_id", "spot", "spotid", "name", "object id", "", "index")
_CORNERS = (("xcoord", "ycoord"), ("left", "top"), ("tile_x", "tile_y"), ("x_min", "y_min"), ("coord_x", "coord_y"))


@dataclass(frozen=True)
class CoordsColumns:
    """What a coordinates file's column names do not say.

    Attributes
    ----------
    x, y
        Columns of the pixel coordinates.
    id
        Column of the spot ids.
    origin
        Whether x and y are the spot's centre, or the top-left corner of a tile of ``tile_px`` pixels.
    tile_px
        Side of those tiles in full-resolution pixels.
    units
        Unit of x and y; None goes by the column names, else pixels.
    pitch_um
        Distance between neighbouring spots in um.
    """

    x: str | None = None
    y: str | None = None
    id: str | None = None
    origin: Literal["center", "topleft"] | None = None
    tile_px: float | None = None
    units: Literal["px", "um"] | None = None
    pitch_um: float | None = None

    def __post_init__(self) -> None:
        if (self.x is None) != (self.y is None):
            raise InputError("--x-column and --y-column go together: one of them is missing.")
        if self.x is not None and self.x == self.y:
            raise InputError(f"--x-column and --y-column are both {self.x!r}; give two columns.")
        for option, value, allowed in (
            ("--origin", self.origin, (None, "center", "topleft")),
            ("--units", self.units, (None, "px", "um")),
        ):
            if value not in allowed:
                raise InputError(f"{option} is {value!r}; {' or '.join(map(str, allowed[1:]))} is needed.")
        if self.pitch_um is not None and not self.pitch_um > 0:
            raise InputError(f"--pitch-um is {self.pitch_um:g}; a positive distance in um is needed.")
        if self.origin == "topleft" and not (self.tile_px and self.tile_px > 0):
            raise InputError("--origin topleft needs the side of the tiles in pixels: --tile-px N.")


def parse_coords(path: StrPath, columns: CoordsColumns | None = None) -> Coordinates:
    """Read a coordinates file into the layout that its column names tell.

    Raises
    ------
    InputError
        When the file is damaged, ambiguous (naming the options that settle it), or its spots are not valid.
    """
    columns = columns or CoordsColumns()
    path = require_file(path, "Coordinates")
    frame = _read_frame(path)
    frame, notes = _only_selected(frame, path)
    if not len(frame):
        raise InputError(f"{path.name} has no spots.")
    parse = _explicit if columns.x is not None else _recognise(frame, path, columns)
    return _finish(parse(frame, path, columns), path, columns, notes, _rows(frame))


def parse_selection(path: Path) -> Coordinates:
    """Read a selection file of legacy ST: array coordinates x and y, which name the spots, and their pixels.

    Raises
    ------
    InputError
        As `parse_coords`, and when it lacks one of its columns.
    """
    coords = parse_coords(path)
    if coords.array is None:
        raise InputError(f"{path.name} is no selection file: the columns x, y, pixel_x and pixel_y are needed.")
    return coords


MOST_COLUMNS = 100_000
"""Columns that a table of coordinates may have: a million take minutes to be read, and are of another table."""

_Parser = Callable[["pd.DataFrame", Path, CoordsColumns], Coordinates]


def _read_frame(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        return read_table(path)
    line = first_line(path)
    cells = [cell.strip().strip('"') for cell in line.split(delimiter_of(line))]
    if len(cells) > MOST_COLUMNS:
        raise InputError(
            f"{path.name} has {len(cells):,} columns, over {MOST_COLUMNS:,}: is it the table of counts? Give the "
            "spots' coordinates, such as id,x,y."
        )
    # Space Ranger 1 wrote no header. The file's name does not tell, so the cells have to.
    if len(cells) == len(_POSITIONS) and cells[1] in ("0", "1") and all(is_number(cell) for cell in cells[1:]):
        return read_table(path, header=_POSITIONS)
    if len(cells) > 1 and all(is_number(cell) for cell in cells[1:]):
        raise InputError(
            f"{path.name} has no header (its first line is {line[:60]!r}); add one, such as id,x,y, in pixels."
        )
    return read_table(path)


def _only_selected(frame: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    for name, meaning in (("in_tissue", "are off the tissue"), ("selected", "are not selected")):
        column = _column(frame, name)
        if column is None:
            continue
        text = frame[column].str.strip().str.lower().replace({"true": "1", "false": "0"})
        kept = numbers(text.to_frame(column), column, path) != 0
        if not kept.all():
            notes.append(f"{int((~kept).sum())} of {len(kept)} spots {meaning} and were dropped.")
        frame = frame[kept]
    return frame, notes


def _recognise(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> _Parser:
    names = {str(name).lower() for name in frame.columns}
    layouts: list[tuple[set[str], _Parser]] = [
        ({"pxl_row_in_fullres", "pxl_col_in_fullres"}, _space_ranger),
        ({"x", "y", "pixel_x", "pixel_y"}, _selection),
        ({"x_array", "y_array", "x_pixel", "y_pixel"}, _deepspot),
        ({"pixel_x", "pixel_y"}, _named("pixel_x", "pixel_y", "px")),
        ({"centroid x µm", "centroid y µm"}, _named("centroid x µm", "centroid y µm", "um")),
        ({"centroid x px", "centroid y px"}, _named("centroid x px", "centroid y px", "px")),
        ({"x", "y"}, _named("x", "y", "px")),
        *(({x, y}, _named(x, y, "px")) for x, y in _CORNERS),
    ]
    for wanted, parse in layouts:
        if not wanted <= {name.replace("μ", "µ") for name in names}:
            continue
        if wanted in [set(pair) for pair in _CORNERS] and columns.origin is None:
            raise InputError(
                f"{path.name}: columns {', '.join(sorted(wanted))} may be tile corners or centres; say which with "
                "--origin topleft --tile-px N, or --origin center."
            )
        return parse
    raise InputError(
        f"{path.name}: its columns ({_columns(frame)}) do not tell which are x and y in pixels; call them x and y, or "
        "name them to mst query with --x-column and --y-column, and --id-column for the spot ids."
    )


def _space_ranger(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> Coordinates:
    xy = _pair(frame, "pxl_col_in_fullres", "pxl_row_in_fullres", path)
    array = _array(frame, "array_row", "array_col", path)
    # Visium HD bins carry their size in the barcode (s_016um_00012_00034-1) and are no 100 um grid.
    ids, notes = _ids(frame, path, columns)
    high_definition = len(ids) > 0 and str(ids[0]).startswith("s_") and "um_" in str(ids[0])
    pitch = float(str(ids[0])[2:5]) if high_definition else VISIUM_PITCH_UM
    return Coordinates(ids, xy, array, pitch_um=pitch, notes=notes)


def _selection(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> Coordinates:
    array = _array(frame, "y", "x", path)
    if columns.id is not None or array is None:
        ids = _ids(frame, path, columns)[0]
    else:
        ids = np.array([f"{col}x{row}" for row, col in array], dtype=np.str_)
    return Coordinates(ids, _pair(frame, "pixel_x", "pixel_y", path), array, pitch_um=LEGACY_ST_PITCH_UM)


def _deepspot(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> Coordinates:
    ids, notes = _ids(frame, path, columns)
    note = "x_array, y_array, x_pixel, y_pixel were read as DeepSpot writes them: x is the row."
    xy = _pair(frame, "y_pixel", "x_pixel", path)
    return Coordinates(ids, xy, _array(frame, "x_array", "y_array", path), notes=(*notes, note))


def _named(x: str, y: str, units: Literal["px", "um"]) -> _Parser:
    def parse(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> Coordinates:
        ids, notes = _ids(frame, path, columns)
        array = _array(frame, "array_row", "array_col", path)
        return Coordinates(ids, _pair(frame, x, y, path), array, units=units, notes=notes)

    return parse


def _explicit(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> Coordinates:
    return _named(columns.x or "", columns.y or "", columns.units or "px")(frame, path, columns)


def _finish(coords: Coordinates, path: Path, columns: CoordsColumns, notes: list[str], rows: IdArray) -> Coordinates:
    coords = replace(coords, rows=rows)
    repeated = [name for name in duplicates(coords.ids.tolist()) if name.strip()]
    if repeated:
        raise InputError(
            f"{path.name}: {len(repeated)} spot ids occur more than once, for example {repeated[0]!r}; give each "
            "spot one of its own."
        )
    corner = columns.tile_px if columns.origin == "topleft" and columns.tile_px else 0.0
    return replace(
        coords,
        xy=coords.xy + corner / 2,
        units=columns.units or coords.units,
        pitch_um=columns.pitch_um or coords.pitch_um,
        notes=(*notes, *coords.notes),
    )


def _ids(frame: pd.DataFrame, path: Path, columns: CoordsColumns) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    if columns.id is not None:
        return frame[_require(frame, columns.id, path)].to_numpy(dtype=np.str_), ()
    for name in _ID_NAMES:
        column = _column(frame, name)
        if column is not None:
            return frame[column].to_numpy(dtype=np.str_), ()
    note = "the coordinates have no column of spot ids: spots are numbered by row, from 1."
    return np.array([str(i + 1) for i in range(len(frame))], dtype=np.str_), (note,)


def _pair(frame: pd.DataFrame, x: str, y: str, path: Path) -> NDArray[np.float64]:
    return np.column_stack([numbers(frame, _require(frame, name, path), path) for name in (x, y)])


def _array(frame: pd.DataFrame, row: str, col: str, path: Path) -> NDArray[np.int64] | None:
    if _column(frame, row) is None or _column(frame, col) is None:
        return None
    values = _pair(frame, row, col, path)
    rows = _rows(frame)
    with naming(path.name):
        check_places(values, rows.astype(np.str_), rows, f"array coordinates ({row}, {col})")
    return np.rint(values).astype(np.int64)


def _rows(frame: pd.DataFrame) -> IdArray:
    """Rows of the file, from 1, also where some were dropped."""
    return frame.index.to_numpy(dtype=np.int64) + 1


def _column(frame: pd.DataFrame, name: str) -> str | None:
    wanted = name.lower()
    return next((str(c) for c in frame.columns if str(c).lower().replace("μ", "µ") == wanted), None)


def _require(frame: pd.DataFrame, name: str, path: Path) -> str:
    column = _column(frame, name)
    if column is None:
        raise InputError(f"{path.name} has no column {name!r}; it has {_columns(frame)}.")
    return column


def _columns(frame: pd.DataFrame) -> str:
    return some(repr(str(name)) for name in frame.columns)
