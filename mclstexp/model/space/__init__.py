"""The space that patches and spots share: what it offers, its closed form, how it is fitted."""
