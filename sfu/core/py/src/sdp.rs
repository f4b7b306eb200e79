//! Descriptions for Python: msgpack in, msgpack or text out. The rules are in `callyard_proto::sdp`.
//!
//! A refused description is a `ValueError(code, sentence)`; `sfu/sdp.py` turns it into its own exception.

use callyard_proto::command::CodecSpec;
use callyard_proto::sdp::{self, Limits, Media, SdpError, Session};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// `size` in bytes, `lines`, `sections`: the most there may be.
#[pyfunction]
pub fn sdp_parse(text: &[u8], size: usize, lines: usize, sections: usize) -> PyResult<Vec<u8>> {
    encode(&sdp::parse_within(text, &Limits { bytes: size, lines, sections }).map_err(refused)?)
}

#[pyfunction]
pub fn sdp_write(session: &[u8]) -> PyResult<String> {
    sdp::write(&decode::<Session>(session)?).map_err(refused)
}

/// `(media, mimes)` → `Agreed`.
#[pyfunction]
pub fn sdp_agree(offered: &[u8]) -> PyResult<Vec<u8>> {
    let (media, mimes): (Media, Vec<String>) = decode(offered)?;
    encode(&sdp::agree(&media, &mimes))
}

/// `(offered, wanted)` → codecs.
#[pyfunction]
pub fn sdp_matching(codecs: &[u8]) -> PyResult<Vec<u8>> {
    let (offered, wanted): (Vec<CodecSpec>, Vec<CodecSpec>) = decode(codecs)?;
    encode(&sdp::matching(&offered, &wanted))
}

#[pyfunction]
pub fn sdp_supported(kind: &str) -> PyResult<Vec<u8>> {
    encode(&sdp::supported(kind))
}

fn refused(error: SdpError) -> PyErr {
    PyValueError::new_err((error.code(), error.to_string()))
}

fn encode<T: serde::Serialize>(value: &T) -> PyResult<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| PyValueError::new_err(("unwritable", error.to_string())))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> PyResult<T> {
    rmp_serde::from_slice(bytes).map_err(|error| PyValueError::new_err(("unwritable", error.to_string())))
}
