//! `sfu._core`: conversion between Python and the core, nothing else.

mod border;
mod config;
mod counters;
mod load;
mod sdp;
mod worker;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::border::{reencode_command, reencode_event};
    #[pymodule_export]
    use super::load::{measure_limit, run_load};
    #[pymodule_export]
    use super::sdp::{sdp_agree, sdp_matching, sdp_parse, sdp_supported, sdp_write};
    #[pymodule_export]
    use super::worker::Worker;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
