//! The load generator's media engine and the machine's limit, as functions that run until they are done, without the GIL.

use callyard_load::{LimitSpec, measure_limit as measure};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::border::encode;

/// Obeys the commands from descriptor `input` until it ends; reports go to `output`. See `sfu/load.py` for both.
#[pyfunction]
#[pyo3(signature = (input, output, /))]
pub(crate) fn run_load(py: Python<'_>, input: i32, output: i32) -> PyResult<()> {
    Ok(py.detach(|| callyard_load::run(input, output))?)
}

/// Measures the fan-out without protocol; a msgpack map in, one out. `ValueError` if it makes no sense.
#[pyfunction]
#[pyo3(signature = (spec, /))]
pub(crate) fn measure_limit<'py>(py: Python<'py>, spec: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let invalid = |error: String| PyValueError::new_err(error);
    let spec: LimitSpec = rmp_serde::from_slice(spec).map_err(|error| invalid(error.to_string()))?;
    let result = py.detach(|| measure(&spec)).map_err(|error| invalid(error.to_string()))?;
    Ok(PyBytes::new(py, &encode(&result)?))
}
