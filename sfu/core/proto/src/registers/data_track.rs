//! Packets of `_data_track` channels: only the handle is ours to read and rewrite, all else passes untouched.

/// Version and flags (2 bytes), handle, sequence, frame number (2 bytes each), timestamp (4 bytes).
const HEADER_BYTES: usize = 12;

/// The publisher's handle; `None` if the packet is shorter than its header.
pub fn handle(packet: &[u8]) -> Option<u16> {
    (packet.len() >= HEADER_BYTES).then(|| u16::from_be_bytes([packet[2], packet[3]]))
}

/// Puts a subscriber's handle into a packet that [`handle`] has accepted.
pub fn set_handle(packet: &mut [u8], handle: u16) {
    if let Some(place) = packet.get_mut(2..4) {
        place.copy_from_slice(&handle.to_be_bytes());
    }
}
