"""Files from outside, tried in another process before this one opens them: docs/decisions/untrusted-files.md."""
