"""A network that fails: an HTTP proxy on loopback that drops, delays, cuts and refuses what a plan names.

It stands before an S3 server. ``Proxy(address)`` runs in threads of this process; ``python network.py ADDRESS`` runs it
in a process of its own, for callers that fork, and prints its address and the server's; with ``moto`` for an address it
starts a server, too. `tell` says what goes wrong from then on, `struck` asks how often it did.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import re
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("drop", "reset", "drop-after", "reset-after", "cut", "delay", "delay-after", "refuse", "refuse-after", "strip")


@dataclass
class Fault:
    """What goes wrong with some requests.

    Attributes
    ----------
    kind
        ``drop`` closes the connection in place of passing the request on, ``drop-after`` in place of its answer;
        ``reset`` does so by a TCP reset; ``cut`` passes half of an answer's body on; ``delay`` waits ``seconds``,
        ``delay-after`` before the answer; ``refuse`` answers ``status`` and ``code``; ``strip`` removes ``header``.
    method, path
        Regular expressions of the requests that are meant.
    after, times
        How many of them pass first, and how many are struck then; 0 is all.
    """

    kind: str
    method: str = ".*"
    path: str = ".*"
    after: int = 0
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    header: str = "If-None-Match"


class Proxy:
    """The proxy, in threads of this process; ``with Proxy(address) as proxy`` stops it at the end."""

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self._faults: list[tuple[Fault, list[int]]] = []
        self._lock = threading.Lock()
        self.seen: list[tuple[str, str]] = []
        self.busy = 0
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def faults(self, *faults: Fault) -> None:
        """Let these go wrong from now on, in place of what did before."""
        with self._lock:
            self._faults = [(fault, [0, 0]) for fault in faults]
            self.seen = []

    def struck(self) -> list[int]:
        """How many requests each fault has struck."""
        with self._lock:
            return [counts[1] for _, counts in self._faults]

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count a request as on its way."""
        with self._lock:
            self.busy += 1
        try:
            yield
        finally:
            with self._lock:
                self.busy -= 1

    def drawn(self, method: str, path: str) -> list[Fault]:
        """Return what goes wrong with a request, and count it."""
        with self._lock:
            self.seen.append((method, path))
            chosen = []
            for fault, counts in self._faults:
                if not re.fullmatch(fault.method, method) or not re.search(fault.path, path):
                    continue
                counts[0] += 1
                if counts[0] > fault.after and (not fault.times or counts[1] < fault.times):
                    counts[1] += 1
                    chosen.append(fault)
            return chosen


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _pass_on(self) -> None:
        body = self._body()
        if self.path.startswith("/-/"):
            self._told(body)
            return
        with self.proxy.passing():
            self._pass(body, self.proxy.drawn(self.command, self.path))

    def _pass(self, body: bytes, faults: list[Fault]) -> None:
        dropped = {fault.header.lower() for fault in faults if fault.kind == "strip"}
        for fault in faults:
            if not self._before(fault):
                return
        answer = self._ask(body, dropped)
        for fault in faults:
            if not self._instead(fault, answer):
                return
        self._send(*answer)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _told(self, body: bytes) -> None:
        if self.path == "/-/faults":
            self.proxy.faults(*(Fault(**values) for values in json.loads(body)))
        answer = {"struck": self.proxy.struck(), "busy": self.proxy.busy}
        self._send(200, [], json.dumps(answer).encode())

    def _before(self, fault: Fault) -> bool:
        if fault.kind == "delay":
            time.sleep(fault.seconds)
        elif fault.kind in ("drop", "reset"):
            self._hang_up(reset=fault.kind == "reset")
            return False
        elif fault.kind == "refuse":
            self._refuse(fault)
            return False
        return True

    def _instead(self, fault: Fault, answer: tuple[int, list[tuple[str, str]], bytes]) -> bool:
        if fault.kind == "delay-after":
            time.sleep(fault.seconds)
        elif fault.kind in ("drop-after", "reset-after"):
            self._hang_up(reset=fault.kind == "reset-after")
            return False
        elif fault.kind == "refuse-after":
            self._refuse(fault)
            return False
        elif fault.kind == "cut":
            self._send(*answer, cut=True)
            return False
        return True

    def _ask(self, body: bytes, dropped: set[str]) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass the request on; the answer's status, headers and body."""
        upstream = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            hop = {"connection", "transfer-encoding", "content-length", "expect", *dropped}
            for name, value in self.headers.items():
                if name.lower() not in hop:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.putheader("Connection", "close")
            upstream.endheaders(body)
            response = upstream.getresponse()
            hop = {"connection", "transfer-encoding"} | ({"content-length"} if self.command != "HEAD" else set())
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop]
            return response.status, headers, response.read()
        finally:
            upstream.close()

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        if cut:
            self._hang_up()

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>So it was planned.</Message></Error>"
        self._send(fault.status, [("Content-Type", "application/xml")], text.encode())

    def _hang_up(self, *, reset: bool = False) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


def tell(address: str, *faults: Fault) -> None:
    """Tell a proxy of another process what goes wrong from now on."""
    data = json.dumps([dataclasses.asdict(fault) for fault in faults]).encode()
    urllib.request.urlopen(f"{address}/-/faults", data, timeout=10).close()


def struck(address: str) -> list[int]:
    """How many requests each fault of a proxy of another process has struck, when none is on its way any more."""
    for _ in range(3000):
        with urllib.request.urlopen(f"{address}/-/struck", b"", timeout=10) as answer:
            state = json.load(answer)
        if not state["busy"]:
            return list(state["struck"])
        time.sleep(0.02)
    raise TimeoutError("a request did not end within a minute")


def moto() -> str:
    """Start moto's S3 server in threads of this process, with a bucket ``references``; its address."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="references")
    return address


def main() -> None:
    target = moto() if sys.argv[1] == "moto" else sys.argv[1]
    with Proxy(target) as proxy:
        print(proxy.address, target, flush=True)  # noqa: T201
        sys.stdin.read()  # until whoever started it has gone


if __name__ == "__main__":
    main()
