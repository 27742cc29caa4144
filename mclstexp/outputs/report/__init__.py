"""One self-contained page of a prediction: the slide, any gene over it, and each spot's evidence."""

from mclstexp.outputs.report.write import report

__all__ = ["report"]
