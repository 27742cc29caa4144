"""Simulated cohorts of any size: features without pictures (``features``), and pictures of many tissues."""
