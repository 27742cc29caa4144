"""A reference that is built or grown by the machines of a cluster: they write rows, the driver commits."""
