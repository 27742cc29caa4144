"""Servers on loopback that tests fetch from: GitHub's list and files, and the Hugging Face hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class Site:
    """Files by path, and how the server misbehaves."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut_after: int | None = None
        """Bytes after which an answer ends early, once each time it is set."""
        self.ranges = True
        self.status: dict[str, int] = {}
        self.endpoint = ""
        self.moved: dict[str, str] = {}
        self.made: dict[str, str] = {}
        """What a dataset was made with, on a hub that is written to."""

    def asked(self, path: str) -> list[str | None]:
        """The ranges that were asked for of a file."""
        return [begin for method, name, begin in self.requests if method == "GET" and name.endswith(path)]


@contextmanager
def serving(site: Site, handler: type[BaseHTTPRequestHandler]) -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, data: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.site.cut_after = self.site.cut_after, None
        if cut is not None and cut < len(data):
            self.wfile.write(data[:cut])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.site.cut_after = cut
        self.wfile.write(data)

    def json(self, value: object, **headers: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def file(self, data: bytes, **headers: object) -> None:
        begin = self.headers.get("Range")
        if begin is None or not self.site.ranges:
            return self.answer(200, data, **headers)
        start = int(begin.removeprefix("bytes=").split("-")[0])
        if start >= len(data):
            return self.answer(416, b"")
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.answer(206, data[start:], Content_Range=span, **headers)

    def received(self) -> str:
        path = unquote(urlparse(self.path).path)
        self.site.requests.append((self.command, path, self.headers.get("Range")))
        return path


class GitHub(Handler):
    """The list of a repository's files, and the files."""

    def do_GET(self) -> None:
        path = self.received()
        status = next((code for end, code in self.site.status.items() if path.endswith(end)), None)
        if status is not None:
            self.answer(status, b"no")
        elif path.startswith("/repos/"):
            tree = [
                {"path": name, "type": "blob", "size": len(data), "sha": git_sha1(data)}
                for name, data in self.site.files.items()
            ]
            self.json({"sha": "abc", "tree": [{"path": "data", "type": "tree"}, *tree], "truncated": False})
        else:
            name = path.split("/", 4)[4]
            if name in self.site.files:
                self.file(self.site.files[name])
            else:
                self.answer(404, b"404: Not Found")


COMMIT = "c" * 40


class Hub(Handler):
    """The part of the hub's interface that a dataset is fetched through."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path = self.received()
        length = int(self.headers.get("Content-Length", 0))
        names = parse_qs(self.rfile.read(length).decode()).get("paths", [])
        if "/paths-info/" in path:
            self.json([self.entry(name) for name in names if name in self.site.files])
        else:
            self.answer(404, b"{}")

    def do_GET(self) -> None:
        path = self.received()
        status = next((code for end, code in self.site.status.items() if end in path), None)
        if status is not None:
            self.answer(status, b'{"error": "no"}', X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        elif "/tree/" in path:
            self.json([self.entry(name) for name in self.site.files if "/" not in name])
        elif "/resolve/" in path:
            name = path.split("/resolve/", 1)[1].split("/", 1)[1]
            data = self.site.files.get(name)
            if data is None:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
            else:
                self.file(data, ETag=f'"{git_sha1(data)}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        elif path.startswith("/api/datasets/"):
            self.json({"id": "MahmoodLab/hest", "sha": COMMIT})
        else:
            self.answer(404, b"{}")

    def entry(self, name: str) -> dict[str, object]:
        data = self.site.files[name]
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data), "lfs": lfs}


class Folder(Handler):
    """A folder of files behind a web server; what `Site.moved` names is said to lie elsewhere."""

    def do_GET(self) -> None:
        path = self.received().lstrip("/")
        status = next((code for end, code in self.site.status.items() if path.endswith(end)), None)
        if path in self.site.moved:
            self.answer(302, b"", Location=self.site.moved[path])
        elif status is not None:
            self.answer(status, b"no")
        elif path in self.site.files:
            self.file(self.site.files[path])
        else:
            self.answer(404, b"no")


class WritableHub(Hub):
    """The hub, with what a folder is uploaded through; every file goes with the commit itself."""

    def do_GET(self) -> None:
        if "/tree/" in self.path and "recursive=true" in self.path.lower() and not self.site.status:
            self.received()
            if not self.site.made:
                return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            return self.json([self.entry(name) for name in self.site.files])
        return super().do_GET()

    def do_POST(self) -> None:
        if "/paths-info/" in self.path:
            return super().do_POST()
        path = self.received()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = next((code for end, code in self.site.status.items() if end in path), None)
        if status is not None:
            return self.answer(status, b'{"error": "no"}')
        if path == "/api/repos/create":
            self.site.made = json.loads(body)
            name = f"{self.site.made['organization']}/{self.site.made['name']}"
            return self.json({"url": f"{self.site.endpoint}/datasets/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.json({"warnings": [], "errors": []})
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.json({"files": files})
        if "/commit/" in path:
            self.commit([json.loads(line) for line in body.decode().splitlines()])
            url = f"{self.site.endpoint}/datasets/lab/four/commit/{COMMIT}"
            return self.json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self.answer(404, b"{}")

    def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.site.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.site.files[value["path"]]
