"""The page over a local server: the slide itself in tiles, any gene of the reference, a region predicted on demand."""

from mclstexp.outputs.serve.run import serve

__all__ = ["serve"]
