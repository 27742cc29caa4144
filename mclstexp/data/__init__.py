"""Slides: readers, images, patches, genes, coordinates."""
