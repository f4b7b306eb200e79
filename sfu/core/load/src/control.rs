//! The generator's control stream: frames of msgpack arrays, as on a worker's control socket, over two descriptors.
//!
//! Reading never blocks; writing does, because whoever asks must also listen.

use std::io;
use std::os::fd::RawFd;

use crate::protocol::{Command, Report};

/// As `sfu/control.py` has it.
const MAX_FRAME_LEN: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the control stream cannot be read: {0}")]
    Read(io::Error),
    #[error("the control stream cannot be written: {0}")]
    Write(io::Error),
    #[error("a frame claims {0} bytes")]
    TooLong(usize),
    #[error("a frame is no array of commands: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
}

pub(crate) struct Control {
    input: RawFd,
    output: RawFd,
    buffer: Vec<u8>,
    chunk: Box<[u8]>,
}

impl Control {
    /// The descriptors stay the caller's. `input` becomes non-blocking.
    pub(crate) fn new(input: RawFd, output: RawFd) -> io::Result<Self> {
        // SAFETY: no pointers; a bad descriptor is an error.
        let result = unsafe {
            let flags = libc::fcntl(input, libc::F_GETFL);
            libc::fcntl(input, libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { input, output, buffer: Vec::new(), chunk: vec![0; 1 << 16].into_boxed_slice() })
    }

    /// The commands that have come; `None` at the end of the stream.
    pub(crate) fn read(&mut self) -> Result<Option<Vec<Command>>, ControlError> {
        loop {
            // SAFETY: a live buffer with its length.
            let count = unsafe { libc::read(self.input, self.chunk.as_mut_ptr().cast(), self.chunk.len()) };
            match count {
                0 => return Ok(None),
                1.. => self.buffer.extend_from_slice(&self.chunk[..count as usize]),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => break,
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(ControlError::Read(error)),
                },
            }
        }
        let mut commands = Vec::new();
        let mut start = 0;
        while let Some(head) = self.buffer[start..].first_chunk::<4>() {
            let len = u32::from_be_bytes(*head) as usize;
            if len > MAX_FRAME_LEN {
                return Err(ControlError::TooLong(len));
            }
            let Some(body) = self.buffer.get(start + 4..start + 4 + len) else { break };
            commands.extend(rmp_serde::from_slice::<Vec<Command>>(body)?);
            start += 4 + len;
        }
        self.buffer.drain(..start);
        Ok(Some(commands))
    }

    pub(crate) fn write(&self, reports: &[Report]) -> Result<(), ControlError> {
        let mut frame = vec![0; 4];
        let encoded = rmp_serde::encode::write_named(&mut frame, reports);
        encoded.map_err(|error| ControlError::Write(io::Error::other(error)))?;
        let len = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        let mut left = &frame[..];
        while !left.is_empty() {
            // SAFETY: a live buffer with its length.
            let count = unsafe { libc::write(self.output, left.as_ptr().cast(), left.len()) };
            match count {
                0.. => left = &left[count as usize..],
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(ControlError::Write(error)),
                },
            }
        }
        Ok(())
    }

    pub(crate) fn input(&self) -> RawFd {
        self.input
    }
}
