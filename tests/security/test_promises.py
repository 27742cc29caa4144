"""Every sentence of docs/security.md that promises something names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of the page's tables: the sentence, and the file and name of each of its tests."""
    rows = [line.strip("| ").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [(row[0].strip(), TEST.findall(row[-1])) for row in rows if row[0].strip() not in ("promise", "---", "who")]


def test_there_are_promises() -> None:
    assert len(promises()) > 20


def test_every_promise_names_a_test_that_exists() -> None:
    names: dict[str, set[str]] = {}
    for sentence, tests in promises():
        assert tests, f"no test is named for: {sentence}"
        for file, name in tests:
            if file not in names:
                tree = ast.parse((ROOT / file).read_text())
                names[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names[file], f"{file} has no {name}, which is to test: {sentence}"


def test_every_test_of_security_is_a_promise() -> None:
    named = {test for _, tests in promises() for test in tests}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        file = path.relative_to(ROOT).as_posix()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert (file, node.name) in named, f"{file}::{node.name} is no promise of docs/security.md"
