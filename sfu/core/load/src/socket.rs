//! One client's UDP socket, and the arrays with which all of them are read and written in batches.
//!
//! Not a protocol. Each client has its own socket because servers know clients by their addresses.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use callyard_net::ControlBuffer;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::Outbox;

const BATCH: usize = 64;
/// Longest datagram without, and longest run of datagrams with generic receive offload.
const SLOT_LEN: usize = 2_048;
const GRO_SLOT_LEN: usize = 1 << 16;

pub(crate) struct ClientSocket {
    socket: UdpSocket,
    overflows: u32,
}

impl ClientSocket {
    /// Bound to the address from which `remote` is reached, and connected to it.
    pub(crate) fn connect(remote: SocketAddr, receive_buffer_bytes: usize, gro: bool) -> io::Result<Self> {
        let socket = Self::bound(remote, receive_buffer_bytes, gro)?;
        socket.socket.connect(remote)?;
        Ok(socket)
    }

    /// On loopback, on any port.
    pub(crate) fn sink(receive_buffer_bytes: usize, gro: bool) -> io::Result<Self> {
        let socket = Self::bound((Ipv4Addr::LOCALHOST, 9).into(), receive_buffer_bytes, gro)?;
        Ok(socket)
    }

    fn bound(remote: SocketAddr, receive_buffer_bytes: usize, gro: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(receive_buffer_bytes)?;
        let any: IpAddr = match remote {
            _ if remote.ip().is_loopback() => remote.ip(),
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        socket.bind(&SocketAddr::new(any, 0).into())?;
        set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
        if gro {
            set(&socket, libc::SOL_UDP, libc::UDP_GRO)?;
        }
        Ok(Self { socket: socket.into(), overflows: 0 })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends all of the outbox; how many datagrams the kernel did not take.
    pub(crate) fn send(&self, outbox: &mut Outbox) -> u64 {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut headers = zeroed_headers();
        let mut failed = 0;
        let mut start = 0;
        for ends in outbox.ends.chunks(BATCH) {
            for (index, &end) in ends.iter().enumerate() {
                let datagram = &mut outbox.bytes[start..end];
                vectors[index] = libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: datagram.len() };
                start = end;
            }
            for (header, vector) in headers.iter_mut().zip(&mut vectors) {
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
            }
            let mut sent = 0;
            while sent < ends.len() {
                let rest = &mut headers[sent..ends.len()];
                // SAFETY: live headers whose vectors point into the outbox, which outlives the call.
                let count = unsafe { libc::sendmmsg(self.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, 0) };
                if count > 0 {
                    sent += count as usize;
                } else {
                    // Full, refused, or an error of an earlier datagram: this one is lost, as on a network.
                    failed += 1;
                    sent += 1;
                }
            }
        }
        outbox.clear();
        failed
    }
}

impl AsRawFd for ClientSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What one look at a socket brought.
pub(crate) struct Taken {
    /// Datagrams the kernel dropped because the socket was full.
    pub overflows: u64,
}

/// The arrays for receiving, shared by all sockets of a thread.
pub(crate) struct Receiver {
    slot_len: usize,
    slots: Box<[u8]>,
    vectors: [libc::iovec; BATCH],
    headers: [libc::mmsghdr; BATCH],
    controls: Box<[ControlBuffer; BATCH]>,
}

impl Receiver {
    pub(crate) fn new(gro: bool) -> Self {
        let slot_len = if gro { GRO_SLOT_LEN } else { SLOT_LEN };
        Self {
            slot_len,
            slots: vec![0; slot_len * BATCH].into_boxed_slice(),
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            headers: zeroed_headers(),
            controls: Box::new([ControlBuffer::EMPTY; BATCH]),
        }
    }

    /// Takes one batch: each datagram with its time of arrival in the kernel, in nanoseconds since the Unix epoch.
    pub(crate) fn take(&mut self, socket: &mut ClientSocket, mut each: impl FnMut(u64, &mut [u8])) -> Taken {
        for (index, slot) in self.slots.chunks_exact_mut(self.slot_len).enumerate() {
            self.vectors[index] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr();
            header.msg_controllen = ControlBuffer::LEN as _;
            header.msg_flags = 0;
        }
        // SAFETY: all headers point to live arrays of this struct, whose lengths they state.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        let mut overflows = 0;
        for (index, slot) in self.slots.chunks_exact_mut(self.slot_len).take(count).enumerate() {
            let header = &self.headers[index];
            let about = self.controls[index].read(header.msg_hdr.msg_controllen);
            if let Some(total) = about.overflows {
                overflows += u64::from(total.wrapping_sub(socket.overflows));
                socket.overflows = total;
            }
            let arrival = about.arrival.unwrap_or(Duration::ZERO).as_nanos() as u64;
            let len = (header.msg_len as usize).min(slot.len());
            let size = about.segment_size.filter(|size| *size > 0).unwrap_or(len.max(1));
            for datagram in slot[..len].chunks_mut(size) {
                each(arrival, datagram);
            }
        }
        Taken { overflows }
    }
}

fn zeroed_headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: null pointers and zero lengths are valid values of these C structs.
    unsafe { mem::zeroed() }
}

fn set(socket: &Socket, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: a valid descriptor and a live int of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const one).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
