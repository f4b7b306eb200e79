//! Why a description is refused: a stable code for programs, a sentence for people.

use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SdpError {
    #[error("the description is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the description has more than {max} lines")]
    TooManyLines { max: usize },
    #[error("the description has more than {max} media sections")]
    TooManySections { max: usize },
    #[error("line {line} has more {what} than allowed")]
    TooMany { line: usize, what: &'static str },
    #[error("the description is not UTF-8")]
    NotUtf8,
    #[error("line {line} holds a NUL or a bare carriage return")]
    ControlCharacter { line: usize },
    #[error("the description does not begin with v=0")]
    NoVersion,
    #[error("the description has no o= line")]
    NoOrigin,
    #[error("line {line} is not of the form x=value")]
    BadLine { line: usize },
    #[error("line {line}: malformed {what}")]
    Malformed { line: usize, what: &'static str },
    #[error("line {line}: payload type {pt} is over 127")]
    PayloadType { line: usize, pt: u32 },
    #[error("line {line}: a second {what} of the same name")]
    Duplicate { line: usize, what: &'static str },
    #[error("{what} cannot be written: it would not be read back")]
    Unwritable { what: &'static str },
}

impl SdpError {
    /// Never changes once released.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::TooManyLines { .. } => "too_many_lines",
            Self::TooManySections { .. } => "too_many_sections",
            Self::TooMany { .. } => "too_many",
            Self::NotUtf8 => "not_utf8",
            Self::ControlCharacter { .. } => "control_character",
            Self::NoVersion => "no_version",
            Self::NoOrigin => "no_origin",
            Self::BadLine { .. } => "bad_line",
            Self::Malformed { .. } => "malformed",
            Self::PayloadType { .. } => "payload_type",
            Self::Duplicate { .. } => "duplicate",
            Self::Unwritable { .. } => "unwritable",
        }
    }
}
