"""`callyard load`: rooms full of light clients against any server that speaks LiveKit's protocol.

Signaling and SDP here, media in the generator's own process (`sfu/load.py`).
"""
