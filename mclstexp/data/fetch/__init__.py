"""Public slides by one call: the HER2+ cohort from GitHub, samples of HEST-1k from the Hugging Face hub."""

from mclstexp.data.fetch.download import FetchedFiles
from mclstexp.data.fetch.her2st import fetch_her2st
from mclstexp.data.fetch.hest import HestFilter, fetch_hest

__all__ = ["FetchedFiles", "HestFilter", "fetch_her2st", "fetch_hest"]
