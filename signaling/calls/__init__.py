"""The calls system, sans-IO: who may do what in which call, and what everybody is told.

Imports no asyncio, no clock, no store and no HTTP. Operations take a draft of a call's state and a `Turn` (who asks,
when, and the facts around) and leave effects on the draft; `signaling/api/v1/service.py` commits and carries them out.
"""
