//! Two sockets on one port: the second takes the subscribers' reports on every packet (transport-wide feedback), which
//! need not wake anybody. With fifty viewers they come more often than the packets that are forwarded.
//!
//! The kernel tells them apart (`SO_REUSEPORT` with a classic BPF program) by what SRTCP leaves in clear: type and format
//! of a datagram's first RTCP packet. All others, requests for packets and key frames among them, go to the first socket.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Version 2 without padding and with feedback format 15 (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
const FEEDBACK_FIRST_BYTE: u32 = 0x8f;
/// Transport-layer feedback (RFC 4585 §6.1).
const TRANSPORT_FEEDBACK: u32 = 205;

/// Indices of the sockets, in the order in which they joined the port.
const PROMPT: u32 = 0;
const REPORTS: u32 = 1;

/// Binds the port; the second socket is missing where the kernel cannot steer.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(Socket, Option<Socket>)> {
    // Two workers must not share a port unawares: whoever has it, even for sharing, refuses a socket that would not.
    let alone = open(address, false)?;
    let address = alone.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    drop(alone);
    let prompt = open(address, true)?;
    let reports = attach(&prompt).and_then(|()| open(address, true)).ok();
    Ok((prompt, reports))
}

fn open(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Puts the program in front of all sockets that share this one's port. It sees a datagram from its payload on.
fn attach(socket: &Socket) -> io::Result<()> {
    let load_byte = |at| filter(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at);
    // Jumps count from the next instruction; a load beyond the end of a datagram ends the program with 0.
    let unless = |value, skip| filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |value| filter(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let mut program = [
        load_byte(0),
        unless(FEEDBACK_FIRST_BYTE, 3),
        load_byte(1),
        unless(TRANSPORT_FEEDBACK, 1),
        end(REPORTS),
        end(PROMPT),
    ];
    let described = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // SAFETY: a valid descriptor, and a description of a live program, which the kernel copies.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const described).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn filter(code: u32, if_true: u8, if_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as libc::c_ushort, jt: if_true, jf: if_false, k }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::UdpSocket;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn all(socket: &Socket) -> Vec<Vec<u8>> {
        let mut buffer = [0; 64];
        let mut socket = socket;
        std::iter::from_fn(|| socket.read(&mut buffer).ok().map(|len| buffer[..len].to_vec())).collect()
    }

    #[test]
    fn reports_go_to_the_second_socket_and_everything_else_to_the_first() {
        for any in ["127.0.0.1:0", "[::]:0"] {
            let (prompt, reports) = bind(any.parse().expect("an address")).expect("a free port");
            let reports = reports.expect("this kernel can steer");
            let port = prompt.local_addr().unwrap().as_socket().unwrap().port();
            assert_eq!(reports.local_addr().unwrap().as_socket().unwrap().port(), port);
            let prompt_ones: [&[u8]; 8] =
                [&[], &[0x8f], &[0x8f, 204], &[0x81, 205, 0], &[0x8f, 206, 0], &[0x80, 111, 1], &[0, 1], &[0xaf, 205]];
            let reports_of: [&[u8]; 2] = [&[0x8f, 205, 0, 5], &[0x8f, 205]];
            for _ in 0..4 {
                // Many peers: it is the content that decides, not a hash of addresses.
                let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
                for datagram in prompt_ones.iter().chain(&reports_of) {
                    peer.send_to(datagram, ("127.0.0.1", port)).expect("it is sent");
                }
            }
            thread::sleep(Duration::from_millis(20));
            assert_eq!(all(&prompt), prompt_ones.repeat(4), "{any}");
            assert_eq!(all(&reports), reports_of.repeat(4), "{any}");
        }
    }

    #[test]
    fn a_port_that_is_taken_stays_refused() {
        let (prompt, _reports) = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = prompt.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(UdpSocket::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
