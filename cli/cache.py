"""``mst cache``: the image features that are kept between runs: how many, how large, and how to be rid of them."""

from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, emit_json, note, table


def cache(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", envvar="MST_CACHE", help="The cache [default: the user's].")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all image features; other files stay.")] = False,
    clear_references: Annotated[
        bool, typer.Option("--clear-references", help="Remove the copies of published references.")
    ] = False,
    limit: Annotated[
        str | None, typer.Option("--limit", help="Keep at most so much from now on, such as 5GB [at first: 20GB].")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the image features that are kept between runs; what was not used for longest goes when the limit is met.

    The copies of published references (--reference hf://... or https://...) are listed below them.

    Example: mst cache --limit 50GB
    """
    from mclstexp.model.image.cache import feature_cache
    from mclstexp.text import parse_size, size

    kept = feature_cache(options.cache_of(folder))
    if limit is not None:
        try:
            n_bytes = parse_size(limit)
        except ValueError:
            raise typer.BadParameter(
                f"{limit!r} is no size; such as 500MB or 5GB is needed.", param_hint="--limit"
            ) from None
        kept.set_limit(n_bytes)
    if clear:
        note(f"removed {size(kept.clear())} of image features")
    from mclstexp.index.published.copy import clear_copies, copies

    if clear_references:
        note(f"removed {size(clear_copies())} of published references")
    use, published = kept.use(), copies()
    if as_json:
        listed = [{"reference": copy.uri, "folder": str(copy.folder), "bytes": copy.n_bytes} for copy in published]
        emit_json({"folder": str(use.folder), "limit_bytes": use.limit, "bytes": use.n_bytes, "encoders": use.fields,
                   "references": listed})  # fmt: skip
        return
    note(f"{use.folder}: {size(use.n_bytes)} of at most {size(use.limit)}")
    if use.fields:
        rows = [[row["encoder"], row["slides"], row["patches"], size(row["bytes"])] for row in use.fields]
        emit(table(["encoder", "slides", "patches", "size"], rows))
    if published:
        emit(table(["published reference", "size"], [[copy.uri, size(copy.n_bytes)] for copy in published]))
