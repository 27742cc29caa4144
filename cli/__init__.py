"""The command ``mst``: parse, one library call, print."""
