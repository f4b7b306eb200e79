//! `SocketAddr` to and from the kernel's `sockaddr`, for dual-stack sockets.
//!
//! Not name resolution. IPv4 peers of an IPv6 socket appear as mapped addresses (RFC 4291 §2.5.5.2) in the kernel and
//! as plain IPv4 everywhere else, so that one client has one address.

use std::mem;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Which addresses a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    /// IPv6, and IPv4 as mapped addresses.
    Dual,
}

/// Large enough for both families, without the 128 bytes of `sockaddr_storage`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union RawAddress {
    pub(crate) v4: libc::sockaddr_in,
    pub(crate) v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(crate) const ZERO: Self = {
        // SAFETY: both members are plain integers, for which all-zero bytes are a valid value.
        unsafe { mem::zeroed() }
    };
    pub(crate) const SIZE: libc::socklen_t = mem::size_of::<Self>() as libc::socklen_t;

    /// The address as the kernel wants it for a socket of `family`, and its length. `None` if the family cannot
    /// reach it.
    pub(crate) fn new(address: SocketAddr, family: Family) -> Option<(Self, libc::socklen_t)> {
        match (family, address) {
            (Family::V4, SocketAddr::V4(address)) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                Some((Self { v4: raw }, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t))
            }
            (Family::V4, SocketAddr::V6(_)) => None,
            (Family::Dual, address) => {
                let (ip, scope) = match address {
                    SocketAddr::V4(address) => (address.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(address) => (*address.ip(), address.scope_id()),
                };
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    sin6_scope_id: scope,
                };
                Some((Self { v6: raw }, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t))
            }
        }
    }

    /// What the kernel wrote; IPv4-mapped addresses become IPv4. `None` for a family we never asked for.
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: the family is the first field of both members, and all bytes are initialised (`ZERO` or a copy).
        let family = libc::c_int::from(unsafe { self.v4.sin_family });
        if family == libc::AF_INET {
            // SAFETY: the family says that this is an IPv4 address.
            let raw = unsafe { self.v4 };
            let ip = raw.sin_addr.s_addr.to_ne_bytes();
            Some(SocketAddr::V4(SocketAddrV4::new(ip.into(), u16::from_be(raw.sin_port))))
        } else if family == libc::AF_INET6 {
            // SAFETY: the family says that this is an IPv6 address.
            let raw = unsafe { self.v6 };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id)),
            })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_kernel_form() {
        for (text, family) in [
            ("192.0.2.1:7882", Family::V4),
            ("192.0.2.1:7882", Family::Dual),
            ("[2001:db8::1]:65535", Family::Dual),
            ("[fe80::1%3]:1", Family::Dual),
        ] {
            let address: SocketAddr = text.parse().expect("a literal address");
            let (raw, _) = RawAddress::new(address, family).expect("the family reaches it");
            assert_eq!(raw.get(), Some(address), "{text}");
        }
    }

    #[test]
    fn an_ipv4_socket_cannot_reach_ipv6() {
        let address: SocketAddr = "[2001:db8::1]:1".parse().expect("a literal address");
        assert!(RawAddress::new(address, Family::V4).is_none());
    }

    #[test]
    fn an_unset_address_is_no_address() {
        assert_eq!(RawAddress::ZERO.get(), None);
    }
}
