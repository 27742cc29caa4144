"""``mst fetch``: what it prints, and the line where something is wrong."""

import json

import pytest
from commands import command, error_of, usage_of
from layouts import make_her2st
from loopback import GitHub, Site, serving


@pytest.fixture
def site(tmp_path):
    root = make_her2st(tmp_path / "made", names=("A1", "B2"))
    files = {f"data/{path.relative_to(root).as_posix()}": path.read_bytes() for path in root.rglob("*.*")}
    with serving(Site(files), GitHub) as site:
        yield site


def test_fetch_then_check(site, tmp_path):
    run = command()
    listed = run(
        "fetch", "her2st", "-o", tmp_path / "h", "--slides", "B2", "--dry-run", env={"MST_GITHUB": site.endpoint}
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "file", "ST-cnts/B2.tsv.gz", "ST-spotfiles/B2_selection.tsv",
    ]  # fmt: skip
    assert f"2 files, 0.0 MB would be in {tmp_path / 'h'}" in listed.stderr
    done = run("fetch", "her2st", "-o", tmp_path / "h", "--endpoint", site.endpoint)
    assert done.stdout == f"{tmp_path / 'h'}\n"
    assert f"5 files fetched, 0 there already, 0.0 MB; next: mst check {tmp_path / 'h'}" in done.stderr
    assert [slide["slide"] for slide in json.loads(run("check", tmp_path / "h", "--json").stdout)] == ["A1", "B2"]
    again = json.loads(run("fetch", "her2st", "-o", tmp_path / "h", "--endpoint", site.endpoint, "--json").stdout)
    assert (again["fetched"], again["kept"], len(again["files"])) == (0, 5, 5)


def test_fetch_says_what_is_wrong_in_one_line(site, tmp_path):
    run = command()
    assert "(404)" in error_of(
        run("fetch", "her2st", "-o", tmp_path / "h", "--endpoint", f"{site.endpoint}/x", ok=False)
    )
    assert "choose samples" in usage_of(run("fetch", "hest", ok=False))


@pytest.mark.parametrize("verb", ["her2st", "hest"])
def test_help_has_an_example_and_fits_a_terminal(verb):
    lines = command()("fetch", verb, "--help").stdout.splitlines()
    assert any(line.strip().startswith(f"Example: mst fetch {verb}") for line in lines)
    assert max(map(len, lines)) <= 80
