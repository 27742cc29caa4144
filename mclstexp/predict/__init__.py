"""From neighbours to expression: the one rule, its sources, and what comes out."""
