"""After any sequence of changes, answers are those of a reference built at once from the same slides."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from retrieval import retrieve
from simulation import Simulation

from mclstexp.config import RetrievalConfig
from mclstexp.index.filter import Filter
from mclstexp.index.store.store import ReferenceStore
from mclstexp.index.verify.run import verify

SIM = Simulation(n_genes=24, n_panel=12, dim=8, n_niches=8)
NUMBERS = st.integers(0, 7)


def record(number, variant):
    """Slides differ in size, some have no image, some measured fewer genes, and two are alike in all but name."""
    genes = slice(4, 24) if number == 3 else slice(None)
    return SIM.record(number, 5 + 2 * number, variant=variant, image=number != 2, genes=genes)


class Growth(RuleBasedStateMachine):
    """The model is a dictionary of slide to variant, and a list of what it was at each version."""

    @initialize(numbers=st.sets(NUMBERS, min_size=1, max_size=3))
    def build(self, numbers):
        self.folder = Path(tempfile.mkdtemp())
        self.slides = dict.fromkeys(numbers, 0)
        self.store = ReferenceStore.create(
            self.folder / "ref", SIM.identity(), [record(*item) for item in self.slides.items()]
        )
        self.versions = [dict(self.slides)]

    def committed(self):
        self.versions.append(dict(self.slides))
        assert self.store.version == len(self.versions)

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=3, unique=True))
    def add(self, numbers):
        new = [number for number in numbers if number not in self.slides]
        report = self.store.add([record(number, self.slides.get(number, 0)) for number in numbers])
        assert sorted(report.added) == sorted(f"slide{number:04d}" for number in new)
        self.slides.update(dict.fromkeys(new, 0))
        if new:
            self.committed()

    @rule(number=NUMBERS, variant=st.integers(0, 2))
    def replace(self, number, variant):
        changed = self.slides.get(number) != variant
        self.store.add([record(number, variant)], replace=True)
        self.slides[number] = variant
        if changed:
            self.committed()

    @precondition(lambda self: len(self.slides) > 1)
    @rule(data=st.data())
    def remove(self, data):
        number = data.draw(st.sampled_from(sorted(self.slides)))
        self.store.remove(slides=[f"slide{number:04d}"])
        del self.slides[number]
        self.committed()

    @precondition(lambda self: len(self.versions) > 1)
    @rule(data=st.data())
    def restore(self, data):
        version = data.draw(st.integers(1, len(self.versions) - 1))
        self.store.restore(version)
        self.slides = dict(self.versions[version - 1])
        self.committed()

    @rule()
    def optimize(self):
        self.store.optimize()
        self.committed()

    @invariant()
    def same_as_built_at_once(self):
        if not hasattr(self, "store"):
            return
        shutil.rmtree(self.folder / "once", ignore_errors=True)
        built = ReferenceStore.create(
            self.folder / "once",
            SIM.identity(),
            [record(number, self.slides[number]) for number in sorted(self.slides)],
        )
        leave_out = Filter(exclude_slides=(built.slides()[0].slide_id,)) if len(self.slides) > 1 else None
        for options in ({}, {"genes": "all", "filter": leave_out}):
            one, other = (
                retrieve(store, SIM.queries(5), RetrievalConfig(k=9), device="cpu", **options)
                for store in (self.store, built)
            )
            np.testing.assert_array_equal(one.mean, other.mean)
            np.testing.assert_array_equal(one.sd, other.sd)
            assert one.missing == other.missing
            assert one.provenance.drop_columns(["row_id"]).equals(other.provenance.drop_columns(["row_id"]))

    def teardown(self):
        if hasattr(self, "store"):
            assert verify(self.store.root).of("duplicate") == verify(self.store.root).findings
            shutil.rmtree(self.folder)


TestGrowth = Growth.TestCase
TestGrowth.settings = settings(max_examples=6, stateful_step_count=8, deadline=None)
