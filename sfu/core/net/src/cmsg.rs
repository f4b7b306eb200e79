//! Ancillary data of a datagram: segment size, local address, time of arrival. Built and read in fixed buffers.
//!
//! Not a general cmsg library: only the five kinds that the UDP socket uses.

use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::ptr;
use std::time::Duration;

use crate::address::Family;

/// Room for one segment size, one `in6_pktinfo` and one `timespec`, headers and padding included.
const CAPACITY: usize = 128;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct ControlBuffer {
    bytes: [u8; CAPACITY],
}

/// What the kernel said about one received message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// The message is a run of datagrams of this size (UDP_GRO); `None`: one datagram.
    pub segment_size: Option<usize>,
    /// The local address it was sent to.
    pub local: Option<IpAddr>,
    /// Time of arrival in the kernel, since the Unix epoch.
    pub arrival: Option<Duration>,
    /// Datagrams the socket has dropped so far because its buffer was full (SO_RXQ_OVFL).
    pub overflows: Option<u32>,
}

impl ControlBuffer {
    pub const EMPTY: Self = Self { bytes: [0; CAPACITY] };
    pub const LEN: usize = CAPACITY;

    pub fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    /// Writes the messages for one outgoing datagram or run, and gives their length in bytes.
    pub(crate) fn write_outgoing(&mut self, segment: Option<u16>, source: Option<IpAddr>, family: Family) -> usize {
        let mut used = 0;
        if let Some(segment) = segment {
            used += self.push(used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment);
        }
        match (source, family) {
            (Some(IpAddr::V4(source)), Family::V4) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                used += self.push(used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (Some(source), Family::Dual) => {
                let source = match source {
                    IpAddr::V4(source) => source.to_ipv6_mapped(),
                    IpAddr::V6(source) => source,
                };
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: source.octets() }, ipi6_ifindex: 0 };
                used += self.push(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            (Some(IpAddr::V6(_)), Family::V4) | (None, _) => {}
        }
        used
    }

    /// Reads what the kernel wrote; `len` is the `msg_controllen` that came back.
    pub fn read(&self, len: usize) -> Received {
        let mut received = Received::default();
        let header_len = mem::size_of::<libc::cmsghdr>();
        let len = len.min(CAPACITY);
        let mut offset = 0;
        while offset + header_len <= len {
            // SAFETY: the header lies within the buffer, whose bytes are all initialised.
            let header: libc::cmsghdr = unsafe { ptr::read_unaligned(self.bytes.as_ptr().add(offset).cast()) };
            let total = header.cmsg_len as usize;
            if total < header_len || offset + total > len {
                break;
            }
            let data = &self.bytes[offset + aligned(header_len)..(offset + total).max(offset + aligned(header_len))];
            received.take(header.cmsg_level, header.cmsg_type, data);
            offset += aligned(total);
        }
        received
    }

    fn push<T: Copy>(&mut self, offset: usize, level: libc::c_int, kind: libc::c_int, value: &T) -> usize {
        let header_len = aligned(mem::size_of::<libc::cmsghdr>());
        let space = header_len + aligned(mem::size_of::<T>());
        assert!(offset + space <= CAPACITY, "the buffer is sized for all messages we write");
        // SAFETY: zeroed is valid for this struct of integers (some targets have padding fields we cannot name).
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = (header_len + mem::size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        // SAFETY: the assertion above keeps both writes inside the buffer; `T` is plain data.
        unsafe {
            let start = self.bytes.as_mut_ptr().add(offset);
            ptr::write_unaligned(start.cast(), header);
            ptr::write_unaligned(start.add(header_len).cast(), *value);
        }
        space
    }
}

impl Received {
    fn take(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment_size = plain::<libc::c_int>(data).and_then(|size| usize::try_from(size).ok());
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.local =
                    plain::<libc::in_pktinfo>(data).map(|info| IpAddr::V4(info.ipi_addr.s_addr.to_ne_bytes().into()));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.local = plain::<libc::in6_pktinfo>(data)
                    .map(|info| IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                self.arrival = plain::<libc::timespec>(data).and_then(|time| {
                    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
                });
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.overflows = plain::<u32>(data),
            _ => {}
        }
    }
}

/// Only for the kernel's plain structs above: any bytes are a valid value of them.
fn plain<T: Copy>(data: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, and every `T` used here consists of integers only.
    (data.len() >= mem::size_of::<T>()).then(|| unsafe { ptr::read_unaligned(data.as_ptr().cast()) })
}

const fn aligned(len: usize) -> usize {
    (len + mem::size_of::<usize>() - 1) & !(mem::size_of::<usize>() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_local_address_is_read_back() {
        for (source, family) in [("192.0.2.7", Family::Dual), ("2001:db8::7", Family::Dual)] {
            let source: IpAddr = source.parse().expect("a literal address");
            let mut buffer = ControlBuffer::EMPTY;
            let len = buffer.write_outgoing(Some(1200), Some(source), family);
            assert_eq!(buffer.read(len).local, Some(source));
        }
    }

    #[test]
    fn lengths_that_lie_are_ignored() {
        let mut buffer = ControlBuffer::EMPTY;
        let len = buffer.write_outgoing(Some(1200), Some("192.0.2.7".parse().expect("a literal")), Family::Dual);
        for cut in 0..len {
            // Whatever the length, nothing outside is read; a cut message is not half a message.
            let received = buffer.read(cut);
            assert!(received.local.is_none() || cut >= len - 4, "cut at {cut}");
        }
        buffer.bytes[0] = 3;
        assert_eq!(buffer.read(len).local, None, "a message shorter than its header ends the list");
    }
}
