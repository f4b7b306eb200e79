"""Quality with real clients: a link emulator of our own, and calls over it with Callyard and LiveKit side by side."""
