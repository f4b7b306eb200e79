"""The control plane: who may join which room, and what each participant is told. Never sees a packet."""

__version__ = "0.1.0"
