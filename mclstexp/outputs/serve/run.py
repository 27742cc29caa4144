"""The server's life: check, bind, say where, answer until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mclstexp.errors import InputError
from mclstexp.notes import warn
from mclstexp.predict.prediction import Prediction
from mclstexp.text import some
from mclstexp.types import Device, StrPath

LOOPBACK = "127.0.0.1"


def serve(
    predictions: Sequence[StrPath],
    *,
    reference: StrPath | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    device: Device = "auto",
    storage_options: Mapping[str, str] | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a page of predictions until Ctrl-C.

    Parameters
    ----------
    predictions
        Paths of predictions (``.h5ad``).
    reference
        Where their reference is, a folder or a URI, when it is not in the folder that they say.
    host, port
        Address to listen on; port 0 takes any that is free.
    device
        Where a region is computed.
    storage_options
        Of the object store where the reference lies; what they lack comes from the environment.
    on_ready
        Called with the page's address once the server listens.

    Raises
    ------
    InputError
        When starlette or uvicorn is missing, a prediction cannot be read, or the address cannot be listened on.
    InputError, FormatError, StorageError, DownloadError
        When ``reference`` is given and cannot be read, or is not the predictions' own.
    """
    require_libraries()
    from mclstexp.outputs.report.write import page_names
    from mclstexp.outputs.serve.app import make_app
    from mclstexp.outputs.serve.session import Session

    loaded = [(Prediction.load(path), Path(path)) for path in predictions]
    names = page_names([(prediction.slide_id, file) for prediction, file in loaded])
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(bound(host, port)))
        sessions = []
        for (prediction, file), name in zip(loaded, names, strict=True):
            session = Session(
                prediction, name, file.parent, reference=reference, device=device, storage_options=storage_options
            )
            stack.callback(session.close)
            _say(name, session.no_image, session.no_reference)
            sessions.append(session)
        token = secrets.token_urlsafe(24)
        app = make_app(sessions, token, f"{some(names)}: predicted expression", host)
        _run(app, listening, lambda: on_ready(f"http://{_shown(host)}:{listening.getsockname()[1]}/{token}/"))


def require_libraries() -> None:
    """Refuse where the web libraries are not installed.

    Raises
    ------
    InputError
        Says how to install them.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"mst serve needs {' and '.join(missing)}: pip install 'mclstexp[serve]'.")


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    InputError
        When the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"There is no address {host!r}: {error.strerror}; give another --host.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(
            f"Port {port} of {host} cannot be used: {error.strerror}; give another --port, or 0 for any that is free."
        ) from error
    return listening


def _run(app: object, listening: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,  # its lines would hold the token
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _say(name: str, no_image: str, no_reference: str) -> None:
    if no_image:
        warn(f"{name}: the slide itself cannot be shown: {no_image}.")
    if no_reference:
        warn(f"{name}: no patches, no further genes, no regions: {no_reference}.")
