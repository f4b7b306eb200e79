"""HTTP interfaces: health, metrics, RoomService, calls. Each translates; none decides."""
