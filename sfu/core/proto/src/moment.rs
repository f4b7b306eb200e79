//! Instants as a trace writes them: nanoseconds since its beginning, which may lie after them.
//!
//! `std` gives instants no meaning outside a process. Whoever writes or reads state says what zero is ([`since`]).

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::breaker::Trip;
use crate::ids::Spatial;

thread_local! {
    static ORIGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work`, within which instants are written and read as time since `origin`.
pub fn since<T>(origin: Instant, work: impl FnOnce() -> T) -> T {
    let before = ORIGIN.replace(Some(origin));
    let result = work();
    ORIGIN.set(before);
    result
}

/// Nanoseconds from `origin` to `at`; negative if that was before.
pub fn nanos(origin: Instant, at: Instant) -> i64 {
    match at.checked_duration_since(origin) {
        Some(later) => later.as_nanos() as i64,
        None => -(origin.saturating_duration_since(at).as_nanos() as i64),
    }
}

/// The opposite of [`nanos`]; `None` for a moment that cannot be.
pub fn instant(origin: Instant, nanos: i64) -> Option<Instant> {
    let apart = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { origin.checked_sub(apart) } else { origin.checked_add(apart) }
}

/// What has an instant in it.
pub trait Timed: Sized {
    type Plain: Serialize + DeserializeOwned;

    fn plain(&self, origin: Instant) -> Self::Plain;
    fn timed(plain: Self::Plain, origin: Instant) -> Option<Self>;
}

impl Timed for Instant {
    type Plain = i64;

    fn plain(&self, origin: Instant) -> i64 {
        nanos(origin, *self)
    }

    fn timed(plain: i64, origin: Instant) -> Option<Self> {
        instant(origin, plain)
    }
}

impl<T: Timed> Timed for Option<T> {
    type Plain = Option<T::Plain>;

    fn plain(&self, origin: Instant) -> Self::Plain {
        self.as_ref().map(|value| value.plain(origin))
    }

    fn timed(plain: Self::Plain, origin: Instant) -> Option<Self> {
        plain.map_or(Some(None), |plain| T::timed(plain, origin).map(Some))
    }
}

impl Timed for Vec<(u32, Option<Instant>)> {
    type Plain = Vec<(u32, Option<i64>)>;

    fn plain(&self, origin: Instant) -> Self::Plain {
        self.iter().map(|(count, at)| (*count, at.plain(origin))).collect()
    }

    fn timed(plain: Self::Plain, origin: Instant) -> Option<Self> {
        plain.into_iter().map(|(count, at)| Some((count, Timed::timed(at, origin)?))).collect()
    }
}

macro_rules! beside {
    ($($other:ty),*) => {$(
        impl Timed for (Instant, $other) {
            type Plain = (i64, $other);

            fn plain(&self, origin: Instant) -> Self::Plain {
                (nanos(origin, self.0), self.1)
            }

            fn timed(plain: Self::Plain, origin: Instant) -> Option<Self> {
                Some((instant(origin, plain.0)?, plain.1))
            }
        }
    )*};
}
beside!(Duration, u64, Spatial, Trip);

/// For `#[serde(with = "crate::moment")]`.
pub fn serialize<T: Timed, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let origin = ORIGIN.get().ok_or_else(|| S::Error::custom("an instant means nothing without an origin"))?;
    value.plain(origin).serialize(serializer)
}

pub fn deserialize<'de, T: Timed, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let origin = ORIGIN.get().ok_or_else(|| D::Error::custom("an instant means nothing without an origin"))?;
    let plain = T::Plain::deserialize(deserializer)?;
    T::timed(plain, origin).ok_or_else(|| D::Error::custom("no such moment"))
}
