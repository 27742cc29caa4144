"""The table of rubbish: one list of entries, in the order in which they are run."""

from hostile.entry import Entry
from hostile.table import damaged, files, findings, numbers, texts

ENTRIES: list[Entry] = [
    *findings.ENTRIES,
    *files.ENTRIES,
    *damaged.ENTRIES,
    *texts.ENTRIES,
    *numbers.ENTRIES,
]
