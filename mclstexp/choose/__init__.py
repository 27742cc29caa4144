"""Nested choice: what the amount and kind of data decide is chosen on the training side, by the one predictor."""
