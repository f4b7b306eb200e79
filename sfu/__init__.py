"""The data plane: worker processes that forward packets. Knows transports and tracks, never roles or names."""
