//! Commands and events as msgpack maps, the form in which `sfu/border.py` writes and reads them.

use callyard_proto::command::Command;
use callyard_proto::event::Event;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;

/// One command. The error is a sentence for the log of whoever sent it.
pub(crate) fn decode_command(bytes: &[u8]) -> Result<Command, String> {
    rmp_serde::from_slice(bytes).map_err(|error| format!("not a command this worker knows: {error}"))
}

/// A msgpack map (or array of maps) with named fields.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> PyResult<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Decodes a command and encodes it again: what the contract test holds the two sides together with.
#[pyfunction]
pub(crate) fn reencode_command<'py>(py: Python<'py>, command: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let command = decode_command(command).map_err(PyValueError::new_err)?;
    Ok(PyBytes::new(py, &encode(&command)?))
}

/// As [`reencode_command`], for events.
#[pyfunction]
pub(crate) fn reencode_event<'py>(py: Python<'py>, event: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let event: Event = rmp_serde::from_slice(event).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &encode(&event)?))
}
