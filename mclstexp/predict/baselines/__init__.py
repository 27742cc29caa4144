"""What a prediction has to beat, on plain arrays: the mean, a linear probe, and neighbours by image features."""
