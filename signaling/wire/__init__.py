"""Bytes to messages and back, one package a protocol. No rules, no state."""
