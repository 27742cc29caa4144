"""The paper's network: layers, trainer, and the space that it makes."""
