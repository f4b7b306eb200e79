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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Times {
        #[serde(with = "crate::moment")]
        at: Instant,
        #[serde(with = "crate::moment")]
        maybe: Option<(Instant, u64)>,
        #[serde(with = "crate::moment")]
        many: Vec<(u32, Option<Instant>)>,
    }

    #[test]
    fn instants_come_back_as_they_were_before_and_after_the_origin() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let origin = Instant::now();
        let (later, before) = (origin + Duration::new(7, 1), origin - Duration::from_nanos(3));
        let times = Times { at: before, maybe: Some((later, 9)), many: vec![(1, None), (2, Some(origin))] };
        let text = since(origin, || serde_json::to_string(&times)).unwrap();
        assert_eq!(text, r#"{"at":-3,"maybe":[7000000001,9],"many":[[1,null],[2,0]]}"#);
        assert_eq!(since(origin, || serde_json::from_str::<Times>(&text)).unwrap(), times);
        // Elsewhere they lie as far from another origin.
        let moved: Times = since(later, || serde_json::from_str(&text)).unwrap();
        assert_eq!(moved.at, later - Duration::from_nanos(3));
    }

    #[test]
    fn without_an_origin_they_are_refused() {
        let text = r#"{"at":0,"maybe":null,"many":[]}"#;
        assert!(serde_json::from_str::<Times>(text).is_err());
        let far = r#"{"at":-9223372036854775808,"maybe":null,"many":[]}"#;
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let origin = Instant::now();
        // What the clock cannot say is an error, never a panic.
        let _ = since(origin, || serde_json::from_str::<Times>(far));
    }
}
