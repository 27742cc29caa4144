"""Why a spot was predicted as it was: its neighbours in words and numbers, and their patches on a sheet."""

from mclstexp.outputs.evidence.sheet import evidence_sheet
from mclstexp.outputs.evidence.spot import SpotEvidence, spot_evidence

__all__ = ["SpotEvidence", "evidence_sheet", "spot_evidence"]
