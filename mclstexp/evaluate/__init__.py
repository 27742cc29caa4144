"""Accuracy on held-out slides: folds, leakage, methods, scores, report."""
