"""A handful of the schedules that the nightly run has by the hundred; MST_FAULT_RUNS says how many."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.plan import FAULTS, State, applied, outcomes, steps

HERE = Path(__file__).parent
RUNS, STEPS = int(os.environ.get("MST_FAULT_RUNS", "2")), int(os.environ.get("MST_FAULT_STEPS", "4"))

ADD = {"verb": "add", "numbers": [3], "variant": 0}
REPLACE = {"verb": "replace", "numbers": [3], "variant": 1}
REMOVE = {"verb": "remove", "numbers": [3], "variant": 0}


def run(*words: object) -> tuple[int, list[dict]]:
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("the failing disk is a Linux library that a C compiler makes")
    paths = os.pathsep.join([str(HERE.parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(0)
def test_schedules_of_faults_lose_nothing() -> None:
    code, lines = run("--runs", RUNS, "--steps", STEPS, "--seed", 0)
    assert (code, lines[:-1]) == (0, [])
    assert lines[-1]["faults"] > 0


def test_damage_is_found() -> None:
    code, lines = run("--runs", 1, "--steps", 1, "--damage")
    assert code == 1
    assert lines[-1]["worst_seed"] == 0
    assert {line["what"] for line in lines[:-1]} & {"verify", "lost", "traceback"}


def test_a_seed_is_a_schedule() -> None:
    assert list(steps(5, 9)) == list(steps(5, 9)) != list(steps(6, 9))
    drawn = {step.fault["kind"] for seed in range(60) for step in steps(seed, 8)}
    assert drawn == set(FAULTS)


def test_what_may_be_found() -> None:
    state, versions = State({0: 0, 1: 0}), {1: {0: 0}}
    both = State({0: 0, 1: 0, 3: 0}).key()
    assert outcomes(state, (ADD,), ["done"], versions) == {both}
    assert outcomes(state, (ADD,), ["stopped"], versions) == {both, state.key()}
    assert outcomes(state, (ADD,), ["refused"], versions) == {state.key()}
    after = outcomes(state, (ADD, REPLACE), ["done", "done"], versions)
    assert after == {State({0: 0, 1: 0, 3: 1}).key()}
    assert outcomes(state, (ADD, REMOVE), ["done", "done"], versions) == {state.key()}
    assert applied(State({3: 1}), ADD, versions) is None
    assert applied(State({3: 1}), REMOVE, versions) is None
    assert applied(state, {"verb": "restore", "numbers": [], "version": 1}, versions) == State({0: 0})
