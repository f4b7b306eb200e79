//! Our private key as dimpl signs with it, read once and not for every handshake.
//!
//! Reading checks that both halves of the key belong together, which takes longer than a signature.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use dimpl::crypto::aws_lc_rs::default_provider;
use dimpl::crypto::{Buf, CryptoProvider, HashAlgorithm, KeyProvider, SignatureAlgorithm, SigningKey};
use dimpl::{CryptoError, CryptoOperation};

/// dimpl's own cryptography, but for the reading of keys.
pub fn provider() -> CryptoProvider {
    CryptoProvider { key_provider: &LAST, ..default_provider() }
}

/// A process has one certificate: the last key is as good as all.
static LAST: LastKey = LastKey(Mutex::new(None));

#[derive(Debug)]
struct LastKey(Mutex<Option<P256>>);

impl KeyProvider for LastKey {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = last.as_ref().filter(|key| *key.der == *der) {
            return Ok(Box::new(key.clone()));
        }
        let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) else {
            return default_provider().key_provider.load_private_key(der);
        };
        let key = last.insert(P256 { der: der.into(), pair: Arc::new(pair) });
        Ok(Box::new(key.clone()))
    }
}

#[derive(Clone)]
struct P256 {
    der: Arc<[u8]>,
    pair: Arc<EcdsaKeyPair>,
}

impl std::fmt::Debug for P256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P256")
    }
}

impl SigningKey for P256 {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(CryptoError::SigningKeyHashMismatch { key_hash: HashAlgorithm::SHA256, requested: hash });
        }
        let signature = self.pair.sign(&SystemRandom::new(), data);
        let signature = signature.map_err(|_| CryptoError::OperationFailed(CryptoOperation::Sign))?;
        out.clear();
        out.extend_from_slice(signature.as_ref());
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}
