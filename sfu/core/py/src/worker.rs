//! The Python class that owns the packet thread. The thread itself never takes the GIL.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callyard_net::{NetCounters, PacketThread, Pump, Shared};
use callyard_proto::counters::Counters;
use callyard_proto::dtls::Certificate;
use callyard_proto::engine::Engine;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;

use crate::border::{decode_command, encode};
use crate::config::WorkerConfig;
use crate::counters::CountersView;

/// A scrape waits this long for a packet thread that is busy, then takes the last figures.
const COUNTERS_PATIENCE: Duration = Duration::from_millis(50);

#[pyclass(frozen, module = "sfu._core")]
pub(crate) struct Worker {
    shared: Arc<Shared<Counters>>,
    port: u16,
    stage: Mutex<Stage>,
}

enum Stage {
    Bound(Box<Pump<Engine>>),
    Running(PacketThread<Counters>),
    Ended,
}

#[derive(Serialize)]
struct AllCounters {
    net: NetCounters,
    engine: CountersView,
}

#[pymethods]
impl Worker {
    /// Binds the sockets. `entropy` must be fresh from the system and used once. `OSError` if the port is taken, `ValueError` for a configuration that makes no sense.
    #[new]
    fn new(config: &[u8], certificate_der: Vec<u8>, key_der: Vec<u8>, entropy: [u8; 32]) -> PyResult<Self> {
        let config = WorkerConfig::decode(config).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let shared = Arc::new(Shared::new(config.queue_capacity)?);
        let certificate = Certificate { certificate_der, private_key_der: key_der };
        let pump = Pump::bind(config.pump_options(), Arc::clone(&shared), |_, start, start_unix| {
            Engine::new(config.engine_config(), certificate, entropy, start, start_unix)
        })
        .map_err(os_error)?;
        let port = pump.local_address().port();
        Ok(Self { shared, port, stage: Mutex::new(Stage::Bound(Box::new(pump))) })
    }

    /// Starts the packet thread.
    fn start(&self) -> PyResult<()> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, Stage::Ended) {
            Stage::Bound(pump) => {
                *stage = Stage::Running(PacketThread::start(*pump, Arc::clone(&self.shared))?);
                Ok(())
            }
            other => {
                *stage = other;
                Err(PyRuntimeError::new_err("a worker starts once"))
            }
        }
    }

    /// The port of both sockets.
    #[getter]
    fn port(&self) -> u16 {
        self.port
    }

    /// Queues commands, each a msgpack map. Gives how many were taken (fewer than all: the queue is full, try the rest
    /// again) and, for those among them that are no commands, their index and a sentence.
    fn send(&self, commands: Vec<Bound<'_, PyBytes>>) -> (usize, Vec<(usize, String)>) {
        let mut refused = Vec::new();
        let mut taken = 0;
        for (index, bytes) in commands.iter().enumerate() {
            if self.shared.command_capacity_left() == 0 {
                break;
            }
            match decode_command(bytes.as_bytes()) {
                Ok(command) => {
                    if !self.shared.push_command(command) {
                        break;
                    }
                }
                Err(sentence) => refused.push((index, sentence)),
            }
            taken = index + 1;
        }
        self.shared.kick();
        (taken, refused)
    }

    /// Readable when `recv` has something, or the packet thread has ended.
    fn fileno(&self) -> i32 {
        self.shared.event_wake().as_raw_fd()
    }

    /// The events waiting, oldest first, as one msgpack array of about `max_bytes` at most; empty bytes if there are
    /// none.
    fn recv<'py>(&self, py: Python<'py>, max_bytes: usize) -> PyResult<Bound<'py, PyBytes>> {
        let encoded = py.detach(|| -> PyResult<Vec<u8>> {
            self.shared.event_wake().clear();
            let mut count = 0_u32;
            // The array's header, its length to be filled in.
            let mut encoded = vec![0xdd, 0, 0, 0, 0];
            while encoded.len() < max_bytes {
                let Some(event) = self.shared.pop_event() else { break };
                encoded.extend(encode(&event)?);
                count += 1;
            }
            if self.shared.has_events() {
                self.shared.event_wake().kick();
            }
            if count == 0 {
                return Ok(Vec::new());
            }
            encoded[1..5].copy_from_slice(&count.to_be_bytes());
            Ok(encoded)
        })?;
        Ok(PyBytes::new(py, &encoded))
    }

    /// Whether events were lost since the last call, because nobody took them. Wakes nobody.
    fn take_lost_events(&self) -> bool {
        self.shared.take_lost_events()
    }

    /// All counters as a msgpack map of maps: `net` and `engine`.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let (net, engine) = py.detach(|| self.shared.counters(COUNTERS_PATIENCE));
        Ok(PyBytes::new(py, &encode(&AllCounters { net, engine: CountersView::from(&engine) })?))
    }

    /// Why the packet thread ended by itself; `None` while all is well.
    fn failure(&self) -> Option<String> {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Running(thread) => thread.failure(),
            Stage::Bound(_) | Stage::Ended => None,
        }
    }

    /// Ends the packet thread and closes the sockets. Twice is once.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
            *stage = Stage::Ended;
        });
    }
}

/// The kernel's number goes along, so that Python raises the fitting subclass of `OSError`.
fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}
