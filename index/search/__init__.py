"""Nearest reference spots: exact search, and FAISS."""
