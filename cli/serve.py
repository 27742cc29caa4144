"""``mst serve``: predictions with their evidence, from a local server."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note
from mclstexp.cli._voice import VOICE


def serve(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions of mst query (.h5ad).")],
    reference: options.RecordedReference = None,
    storage_option: options.StorageOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 takes any that is free.")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than 127.0.0.1 are open to the network.")
    ] = "127.0.0.1",
    device: options.Device = "auto",
) -> None:
    """Show predictions in the browser from a local server: slides of any size, any gene of the reference.

    It prints the page's address, which holds a secret, and answers until Ctrl-C. Nothing is written.

    Example: mst serve slide.h5ad
    """
    from mclstexp.outputs.serve import serve as run

    access = options.storage_beside(storage_option, reference)
    if host not in ("127.0.0.1", "::1", "localhost"):
        note(f"{host} is open to the network, without encryption: whoever has the address sees the slides")

    def ready(url: str) -> None:
        emit(url)
        sys.stdout.flush()  # whoever reads it through a pipe waits for it
        note("Ctrl-C stops the server")
        VOICE.resting = True  # waiting is its work

    run(
        list(predictions),
        reference=reference,
        host=host,
        port=port,
        device=device,
        storage_options=access,
        on_ready=ready,
    )
    note("stopped")
