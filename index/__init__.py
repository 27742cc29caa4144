"""The reference: embeddings, counts and provenance of every spot, searched by histology."""
