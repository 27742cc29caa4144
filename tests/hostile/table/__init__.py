"""The table of rubbish: one list of entries, in the order in which they are run."""

from hostile.entry import Entry
from hostile.table import files, findings, layouts, numbers, others, texts

BY_HAND: list[Entry] = [
    *findings.ENTRIES,
    *files.ENTRIES,
    *layouts.ENTRIES,
    *texts.ENTRIES,
    *numbers.ENTRIES,
]
ENTRIES: list[Entry] = [*BY_HAND, *others.rows(BY_HAND)]
