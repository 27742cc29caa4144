"""Beyond one machine and past its memory: each part is a script of its own, such as ``scale/search.py``."""
