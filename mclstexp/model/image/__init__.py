"""The image encoder: backbone, pooling, features, how far features lie from the training's."""
