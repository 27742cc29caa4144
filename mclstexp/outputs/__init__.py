"""What a prediction becomes for people: maps."""
