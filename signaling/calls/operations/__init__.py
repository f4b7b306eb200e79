"""One file per family of requests: each takes a `Turn` and a request, changes the draft, and leaves effects on it."""
