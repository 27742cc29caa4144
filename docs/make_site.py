"""What the site adds to the pages of docs/, as hooks of MkDocs (mkdocs.yml).

The shelves come from the index docs/README.md, the pages of the repository's root and the notebooks become pages, and
every public name gets its docstring.
"""

from __future__ import annotations

import base64
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mclstexp import _PUBLIC

ROOT = Path(__file__).parents[1]
INDEX = "README.md"
FRONT = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Pages of the repository's root, and what they are called in the site."""

API = "reference/api.md"
LINK = re.compile(r"(?<!\\)(!?)\[([^\[\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Make the shelves of the site from the headings and links of the index."""
    shelves: list[dict[str, Any]] = [{"Home": INDEX}]
    for line in (ROOT / "docs" / INDEX).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            shelves.append({line[3:]: []})
        elif len(shelves) > 1:
            pages = next(iter(shelves[-1].values()))
            pages += [{title: site_path(INDEX, target)} for _, title, target in LINK.findall(line) if inside(target)]
    next(pages for shelf in shelves for name, pages in shelf.items() if name == "Reference").append(
        {"Every public name": API}
    )
    config.nav = shelves
    return config


def inside(target: str) -> bool:
    """Whether a link of the index is a page of the site."""
    return site_path(INDEX, target) is not None and target.partition("#")[0].endswith((".md", ".ipynb"))


def site_path(page: str, target: str) -> str | None:
    """Return where the site has what a page of docs/ links to, None when it is no file of the site."""
    return placed(posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target.partition("#")[0])))


def placed(path: str) -> str | None:
    """Return where the site has a file of the repository."""
    if path in FRONT:
        return FRONT[path]
    if path.startswith("docs/") and not path.endswith(".py"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return None


def on_files(files: Any, config: Any) -> Any:
    """Add the root's pages, the notebooks as Markdown, and the page of docstrings."""
    from mkdocs.structure.files import File

    def add(path: str, content: str | bytes) -> None:
        files.append(File.generated(config, path, content=content))

    for name, path in FRONT.items():
        add(path, (ROOT / name).read_text(encoding="utf-8"))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        add(re.sub(r"\.ipynb$", ".md", notebook.src_uri), notebook_page(Path(notebook.abs_src_path)))
    add(API, api_page())
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that are right in the repository into links that are right in the site."""
    here = page.file.src_uri
    source = next((name for name, path in FRONT.items() if path == here), f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        mark, title, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        destination = placed(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if destination is None:
            return f"{title} (`{posixpath.normpath(posixpath.join(posixpath.dirname(source), path))}`)"
        relative = os.path.relpath(destination, posixpath.dirname(here) or ".").replace(os.sep, "/")
        return f"{mark}[{title}]({relative}{'#' + anchor if anchor else ''})"

    parts = CODE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def api_page() -> str:
    """Return the page of every public function and class, which mkdocstrings fills from the code."""
    lines = ["# Every public name", "", "Made from the docstrings; [an overview](python.md) has the names by noun.", ""]
    for name, module in sorted(_PUBLIC.items()):
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """Return a notebook with its outputs as Markdown, its pictures inside."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(path))
    for name, data in resources["outputs"].items():
        text = text.replace(f"({name})", f"(data:image/png;base64,{base64.b64encode(data).decode()})")
    return str(re.sub(r"<style scoped>.*?</style>", "", text, flags=re.DOTALL))
