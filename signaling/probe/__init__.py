"""The probe: an independent WebRTC peer that joins a running server the way clients do and checks what comes back.

`signal.py` speaks LiveKit's protocol, `ice.py` `ice_tcp.py` `dtls.py` `peer.py` are one WebRTC association on aioice
and aiortc, `media.py` and `content.py` make what is sent and judge what arrives, `participant.py` and `run.py` put a
call together, `report.py`, `metrics.py` and `command.py` tell about it. Nothing here imports the server's rooms, wire
or `sfu`: what checks the server shares no code with it.
"""
