"""Runs entries of the table, one after the other: ``python worker.py WORLD SCRATCH < names``, a line of JSON each.

In this process by default, through the command's own ``main``; with ``--apart`` each as a command of its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from hostile.damage import DAMAGE
from hostile.entry import HUNG, Entry, Outcome
from hostile.table import ENTRIES

LONGEST_S = 120
VARIABLES = ("MST_CACHE", "MST_ENCODER", "MST_ENCODER_WEIGHTS", "MST_MODEL", "MST_REFERENCE")
CODE = "from mclstexp.cli.app import main; main()"
PLAIN = ("rubbish", "cache", "out", "in")


class Runner:
    """Runs entries on a world, in folders of their own."""

    def __init__(self, world: Path, scratch: Path, *, apart: bool) -> None:
        self.world, self.scratch, self.apart = world, scratch, apart

    def run(self, entry: Entry) -> Outcome:
        """Make the entry's inputs, run its command where nothing is, and see what it left."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        inputs, outputs = folder / "i", folder / "o"
        inputs.mkdir()
        outputs.mkdir()
        try:
            for spoil in entry.spoils:
                self._spoil(spoil, inputs)
            before = _files(inputs)
            places = {"{w}": self.world, "{i}": inputs, "{o}": outputs}
            words = [_placed(word, places) for word in entry.command]
            started, used = time.monotonic(), time.process_time()
            code, out, err = self._command(words, outputs, entry.environment)
            seconds, cpu = time.monotonic() - started, time.process_time() - used
            left = sorted(_files(outputs) | {name for name in _files(inputs) - before if ".tmp-" in name})
            return Outcome(code, out[-4000:], err[-8000:], seconds, cpu, tuple(left))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _spoil(self, spoil: object, inputs: Path) -> None:
        source = self.world / spoil.copy  # type: ignore[attr-defined]
        target = inputs / source.name
        if not target.exists():
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        name, _, argument = spoil.damage.partition(":")  # type: ignore[attr-defined]
        path = target / spoil.file if spoil.file else target  # type: ignore[attr-defined]
        if "*" in str(path):
            path = sorted(target.glob(spoil.file))[0]  # type: ignore[attr-defined]
        DAMAGE[name](path, argument)

    def _command(self, words: list[str], folder: Path, given: dict[str, str]) -> tuple[int, str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment |= {"MST_CACHE": str(self.world / "cache"), **given}
        if self.apart:
            return _apart(words, folder, environment)
        return _here(words, folder, environment)


def _placed(word: str, places: dict[str, Path]) -> str:
    for name, path in places.items():
        word = word.replace(name, str(path))
    return word


def _files(folder: Path) -> set[str]:
    return {os.path.relpath(Path(root, name), folder) for root, dirs, names in os.walk(folder) for name in names + dirs}


def _apart(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'mst'; {CODE}", *words]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=LONGEST_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as hang:
        return HUNG, "", (hang.stderr or b"").decode(errors="replace")
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _here(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    from mclstexp.cli.app import main

    kept, argv, cwd = dict(os.environ), sys.argv, Path.cwd()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _streams(out.fileno(), err.fileno()):
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.argv = ["mst", *words]
            try:
                main()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
                traceback.print_exc()
                code = 1
            finally:
                sys.argv = argv
                os.chdir(cwd)
                os.environ.clear()
                os.environ.update(kept)
        return code, _text(out), _text(err)


@contextmanager
def _streams(out: int, err: int) -> Iterator[None]:
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for number in kept:
            os.close(number)


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return bytes(file.read()).decode(errors="replace")  # type: ignore[attr-defined]


def main() -> None:
    """Answer names on stdin with outcomes on a descriptor of its own."""
    world, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    runner = Runner(world, scratch, apart="--apart" in sys.argv)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not runner.apart:  # while somebody makes the world
        import mclstexp.data.readers
        import mclstexp.index.reference
        import mclstexp.train  # noqa: F401
    by_name = {entry.name: entry for entry in ENTRIES}
    for line in sys.stdin:
        name = line.rstrip("\n")
        answers.write(json.dumps({"name": name, "outcome": asdict(runner.run(by_name[name]))}) + "\n")


if __name__ == "__main__":
    main()
