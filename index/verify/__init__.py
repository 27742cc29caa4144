"""Whether a reference is whole, and mending what can be derived."""
