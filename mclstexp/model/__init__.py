"""The two encoders and the space that they share."""
