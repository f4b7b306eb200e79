//! Session keys from a master key and salt: AES-CM PRF, key derivation rate 0 (RFC 3711 §4.3, RFC 7714 §11).

use super::cipher::AesCtr;
use super::{Profile, SrtpError};

/// Labels of RFC 3711 §4.3.1 and §4.3.2.
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// Fill `out` with the key for `label`. A 96-bit GCM salt counts as 112 bits with zeros on the right.
pub(super) fn derive(
    profile: Profile,
    master_key: &[u8],
    master_salt: &[u8],
    label: Label,
    out: &mut [u8],
) -> Result<(), SrtpError> {
    if master_key.len() != profile.key_len() || master_salt.len() != profile.salt_len() {
        return Err(SrtpError::KeyLength);
    }
    prf(master_key, master_salt, label, out)
}

/// AES_128_CM_PRF or, with a master key of 32 bytes, AES_256_CM_PRF (RFC 6188 §3).
fn prf(master_key: &[u8], master_salt: &[u8], label: Label, out: &mut [u8]) -> Result<(), SrtpError> {
    let mut iv = [0u8; 16];
    iv[..master_salt.len()].copy_from_slice(master_salt);
    // key_id = label || index/rate, 56 bits right-aligned in the 112 of the salt; the index part is 0.
    iv[7] ^= label as u8;
    out.fill(0);
    AesCtr::new(master_key)?.apply(&mut iv, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    #[test]
    fn rfc_3711_b3() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let derive_bytes = |label, len| {
            let mut out = vec![0u8; len];
            derive(Profile::Aes128CmSha1_80, &key, &salt, label, &mut out).unwrap();
            out
        };
        assert_eq!(derive_bytes(Label::RtpEncryption, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derive_bytes(Label::RtpSalt, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(
            derive_bytes(Label::RtpAuthentication, 94),
            hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
                 E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
                 6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2")
        );
    }

    /// What AEAD_AES_256_GCM derives its keys with (RFC 7714 §11).
    #[test]
    fn rfc_6188_section_7_2() {
        let key = hex("F0F04914B513F2763A1B1FA130F10E2998F6F6E43E4309D1E622A0E332B9F1B6");
        let salt = hex("3B04803DE51EE7C96423AB5B78D2");
        let derive_bytes = |label, len| {
            let mut out = vec![0u8; len];
            prf(&key, &salt, label, &mut out).unwrap();
            out
        };
        assert_eq!(
            derive_bytes(Label::RtpEncryption, 32),
            hex("5BA1064E30EC51613CAD926C5A28EF731EC7FB397F70A960653CAF06554CD8C4")
        );
        assert_eq!(derive_bytes(Label::RtpSalt, 14), hex("FA31791685CA444A9E07C6C64E93"));
        assert_eq!(derive_bytes(Label::RtpAuthentication, 20), hex("FD9C32D39ED5FBB5A9DC96B30818454D1313DC05"));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for (key, salt) in [(15, 14), (16, 12), (0, 0), (32, 14)] {
            let got = derive(Profile::Aes128CmSha1_80, &vec![0; key], &vec![0; salt], Label::RtpSalt, &mut [0; 14]);
            assert_eq!(got, Err(SrtpError::KeyLength));
        }
    }
}
