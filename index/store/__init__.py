"""The reference on disk: tables, versions, changes."""
