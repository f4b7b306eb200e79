"""The LiveKit client protocol's frames and connection parameters."""
