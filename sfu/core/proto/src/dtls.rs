//! DTLS behind a small trait, and its implementation on `dimpl` (DTLS 1.2, RFC 6347; SRTP keys, RFC 5764).
//!
//! DTLS 1.2 because there the server chooses the SRTP profile and takes GCM; in 1.3 `dimpl` takes the client's first.
//! The peer's certificate is trusted through its fingerprint alone (RFC 8122): neither keys nor data leave before it matched.
//! No cookie exchange: a datagram gets here only from an address that passed an ICE check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

use crate::command::{DtlsRole, Fingerprint};
use crate::signing;
use crate::srtp::Profile;

/// Our certificate, as `cryptography` and others write it.
#[derive(Clone)]
pub struct Certificate {
    pub certificate_der: Vec<u8>,
    /// PKCS#8, ECDSA P-256 or P-384.
    pub private_key_der: Vec<u8>,
}

impl Certificate {
    /// The `sha-256` fingerprint line's value: upper-case hex bytes joined by colons.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            algorithm: "sha-256".to_owned(),
            value: colon_hex(digest::digest(&digest::SHA256, &self.certificate_der).as_ref()),
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({} bytes)", self.certificate_der.len())
    }
}

/// Exported keying material, already split by direction (RFC 5764 §4.2).
pub struct SrtpKeys {
    pub profile: Profile,
    pub local_key: Vec<u8>,
    pub local_salt: Vec<u8>,
    pub remote_key: Vec<u8>,
    pub remote_salt: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DtlsError {
    #[error("the handshake failed")]
    Handshake,
    #[error("the peer's certificate matches none of its fingerprints")]
    Fingerprint,
    #[error("the peer offered no SRTP profile known here")]
    NoSrtpProfile,
}

impl DtlsError {
    pub fn code(self) -> &'static str {
        match self {
            Self::Handshake => "dtls_handshake_failed",
            Self::Fingerprint => "dtls_fingerprint_mismatch",
            Self::NoSrtpProfile => "dtls_no_srtp_profile",
        }
    }
}

pub enum DtlsOutput<'a> {
    Packet(&'a [u8]),
    /// The handshake is complete and the peer is who its description says.
    Connected(SrtpKeys),
    Data(&'a [u8]),
    /// The peer said close_notify.
    Closed,
    /// Nothing more until then.
    Wait(Instant),
}

/// A DTLS association without I/O. An error is final.
pub trait DtlsEngine: Send {
    fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError>;
    fn timeout(&mut self, now: Instant) -> Result<(), DtlsError>;
    /// Queues one record; [`Self::poll`] must be drained before the next.
    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsError>;
    /// Queues close_notify if there are keys.
    fn close(&mut self);
    /// To be called until it answers [`DtlsOutput::Wait`] after every other call.
    fn poll<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<DtlsOutput<'a>, DtlsError>;
}

/// Settings shared by all associations of a worker.
pub fn dimpl_config(handshake_timeout: Duration) -> Arc<dimpl::Config> {
    let config = dimpl::Config::builder()
        .with_crypto_provider(signing::provider())
        .mtu(1_200)
        .use_server_cookie(false)
        .max_queue_rx(64)
        .max_queue_tx(64)
        // The path is known to work; one lost flight must not cost a second.
        .flight_start_rto(Duration::from_millis(200))
        .flight_retries(10)
        .handshake_timeout(handshake_timeout)
        .build();
    // Only nonsensical timings and empty suite lists are refused, and these are constants.
    Arc::new(config.expect("constant DTLS settings are valid"))
}

pub struct DimplEngine {
    dtls: dimpl::Dtls,
    role: DtlsRole,
    fingerprints: Vec<Fingerprint>,
    is_verified: bool,
    is_connected: bool,
    is_closed: bool,
    keys: Option<SrtpKeys>,
    /// The time that dimpl was told last, and when it wants to be told the next.
    told: Instant,
    wait: Instant,
}

impl DimplEngine {
    pub fn new(
        config: Arc<dimpl::Config>,
        certificate: &Certificate,
        role: DtlsRole,
        fingerprints: Vec<Fingerprint>,
        now: Instant,
    ) -> Self {
        let certificate = dimpl::DtlsCertificate {
            certificate: certificate.certificate_der.clone(),
            private_key: certificate.private_key_der.clone(),
        };
        let mut dtls = dimpl::Dtls::new_12(config, certificate, now);
        dtls.set_active(role == DtlsRole::Client);
        Self {
            dtls,
            role,
            fingerprints,
            is_verified: false,
            is_connected: false,
            is_closed: false,
            keys: None,
            told: now,
            wait: now,
        }
    }

    fn split_keys(&self, material: &[u8], profile: dimpl::SrtpProfile) -> Option<SrtpKeys> {
        let profile = match profile {
            dimpl::SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
            dimpl::SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
            dimpl::SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmSha1_80,
            _ => return None,
        };
        let (key, salt) = (profile.key_len(), profile.salt_len());
        if material.len() < 2 * (key + salt) {
            return None;
        }
        let (client_key, rest) = material.split_at(key);
        let (server_key, rest) = rest.split_at(key);
        let (client_salt, rest) = rest.split_at(salt);
        let server_salt = &rest[..salt];
        let (local, remote) = match self.role {
            DtlsRole::Client => ((client_key, client_salt), (server_key, server_salt)),
            DtlsRole::Server => ((server_key, server_salt), (client_key, client_salt)),
        };
        Some(SrtpKeys {
            profile,
            local_key: local.0.to_vec(),
            local_salt: local.1.to_vec(),
            remote_key: remote.0.to_vec(),
            remote_salt: remote.1.to_vec(),
        })
    }
}

impl DtlsEngine for DimplEngine {
    fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        if self.is_closed || (self.is_connected && !may_follow_handshake(datagram)) {
            return Ok(());
        }
        // What has come may be what a flight waits for: it is read before the flight is sent again.
        let just_before = self.wait.checked_sub(Duration::from_nanos(1)).map_or(now, |at| now.min(at));
        self.tell(just_before.max(self.told))?;
        self.dtls.handle_packet(datagram).map_err(|_| DtlsError::Handshake)
    }

    fn timeout(&mut self, now: Instant) -> Result<(), DtlsError> {
        if self.is_closed {
            return Ok(());
        }
        self.tell(now)
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsError> {
        if !self.is_connected || self.is_closed {
            return Ok(());
        }
        self.dtls.send_application_data(plaintext).map(|_| ()).map_err(|_| DtlsError::Handshake)
    }

    fn close(&mut self) {
        if !self.is_closed {
            // A refusal means the association is dead already: there is nobody left to tell.
            let _ = self.dtls.close();
        }
    }

    fn poll<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<DtlsOutput<'a>, DtlsError> {
        // Room for the largest record (RFC 6347 §4.1), so that dimpl never asks for more in practice.
        if buffer.len() < 20_000 {
            buffer.resize(20_000, 0);
        }
        loop {
            // The borrow checker cannot see that the arms that loop let go of the buffer, hence lengths and a second borrow.
            enum Seen {
                Packet(usize),
                Data(usize),
            }
            let seen = match self.dtls.poll_output(buffer) {
                dimpl::Output::Packet(packet) => Seen::Packet(packet.len()),
                dimpl::Output::ApplicationData(data) if self.is_verified => Seen::Data(data.len()),
                dimpl::Output::ApplicationData(_) => continue,
                dimpl::Output::BufferTooSmall { needed } => {
                    buffer.resize(needed, 0);
                    continue;
                }
                dimpl::Output::Timeout(at) => {
                    self.wait = at;
                    return Ok(DtlsOutput::Wait(at));
                }
                dimpl::Output::PeerCert(der) => {
                    if !matches_any(der, &self.fingerprints) {
                        return Err(DtlsError::Fingerprint);
                    }
                    self.is_verified = true;
                    continue;
                }
                dimpl::Output::KeyingMaterial(material, profile) => {
                    self.keys = Some(self.split_keys(&material, profile).ok_or(DtlsError::NoSrtpProfile)?);
                    if !self.is_connected {
                        continue;
                    }
                    return self.announce();
                }
                dimpl::Output::Connected => {
                    self.is_connected = true;
                    if self.keys.is_none() {
                        continue;
                    }
                    return self.announce();
                }
                dimpl::Output::CloseNotify => {
                    self.is_closed = true;
                    return Ok(DtlsOutput::Closed);
                }
                _ => continue,
            };
            return Ok(match seen {
                Seen::Packet(len) => DtlsOutput::Packet(&buffer[..len]),
                Seen::Data(len) => DtlsOutput::Data(&buffer[..len]),
            });
        }
    }
}

impl DimplEngine {
    fn tell(&mut self, now: Instant) -> Result<(), DtlsError> {
        self.told = now;
        self.dtls.handle_timeout(now).map_err(|_| DtlsError::Handshake)
    }

    fn announce<'a>(&mut self) -> Result<DtlsOutput<'a>, DtlsError> {
        if !self.is_verified {
            return Err(DtlsError::Fingerprint);
        }
        self.keys.take().map(DtlsOutput::Connected).ok_or(DtlsError::NoSrtpProfile)
    }
}

/// Once there are keys, nothing unprotected is believed: neither an alert nor a new handshake in clear (RFC 6347 §4.1.2.7).
///
/// A repeated last flight still mixes clear and protected records, so a datagram passes if any of it is protected.
fn may_follow_handshake(datagram: &[u8]) -> bool {
    const ALERT: u8 = 21;
    let mut rest = datagram;
    let mut any_protected = false;
    while rest.len() >= 13 {
        let epoch = u16::from_be_bytes([rest[3], rest[4]]);
        let len = usize::from(u16::from_be_bytes([rest[11], rest[12]]));
        if epoch == 0 && rest[0] == ALERT {
            return false;
        }
        any_protected |= epoch > 0;
        rest = rest.get(13 + len..).unwrap_or_default();
    }
    any_protected
}

/// Hashes no weaker than SHA-256 count; `sha-1` alone never matches.
fn matches_any(der: &[u8], fingerprints: &[Fingerprint]) -> bool {
    fingerprints.iter().any(|fingerprint| {
        let algorithm = match fingerprint.algorithm.to_ascii_lowercase().as_str() {
            "sha-256" => &digest::SHA256,
            "sha-384" => &digest::SHA384,
            "sha-512" => &digest::SHA512,
            _ => return false,
        };
        colon_hex(digest::digest(algorithm, der).as_ref()).eq_ignore_ascii_case(&fingerprint.value)
    })
}

fn colon_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}
