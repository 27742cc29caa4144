"""Genes: lists, panels, sets, and how counts become expression."""
