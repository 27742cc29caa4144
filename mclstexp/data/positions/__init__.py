"""Where spots lie: coordinate files, the lattice they were printed on, the tissue under them."""
