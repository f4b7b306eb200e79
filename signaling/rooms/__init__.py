"""Rooms, participants, tracks and subscriptions as pure state: messages in, effects out. No I/O, no clock."""
