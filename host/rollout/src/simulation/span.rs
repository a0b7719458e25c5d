//! Spans of time as they are written.

use serde::{Deserialize, Deserializer, de};

/// A day, in microseconds.
pub(super) const DAY: u64 = 86_400_000_000;

/// A span of time, in microseconds; written `3d`, `6h`, `10m`, `30s`, `250ms`, or several of these
/// together, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

const UNITS_OF_TIME: [(&str, u64); 5] =
    [("d", DAY), ("h", DAY / 24), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];

impl Span {
    /// Reads it; none when it is not written so.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut micros = 0u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (_, unit) = UNITS_OF_TIME.iter().find(|(name, _)| *name == &rest[..letters])?;
            micros = micros.checked_add(number.checked_mul(*unit)?)?;
            rest = &rest[letters..];
        }
        (!text.is_empty()).then_some(Self(micros))
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// As it is written, to the millisecond, its two largest units.
impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        let mut parts = 0;
        for (name, unit) in UNITS_OF_TIME {
            let number = rest / unit;
            if number > 0 && parts < 2 {
                write!(f, "{number}{name}")?;
                rest %= unit;
                parts += 1;
            } else if parts > 0 {
                break;
            }
        }
        if parts == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| {
            let example = "write it as \"3d\", \"6h\", \"10m\", \"30s\", \"250ms\" or \"1h30m\"";
            de::Error::custom(format!("{text:?} is no span of time: {example}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, micros, written) in [
            ("3d", Some(3 * DAY), "3d"),
            ("1h30m", Some(5_400_000_000), "1h30m"),
            ("90m", Some(5_400_000_000), "1h30m"),
            ("1d1s", Some(DAY + 1_000_000), "1d"),
            ("250ms", Some(250_000), "250ms"),
            ("0s", Some(0), "0s"),
            ("", None, ""),
            ("3", None, ""),
            ("h", None, ""),
            ("3 d", None, ""),
            ("-3d", None, ""),
            ("99999999999999999999d", None, ""),
            ("999999999999999d", None, ""),
        ] {
            let span = Span::parse(text);
            assert_eq!(span.map(|span| span.0), micros, "{text}");
            if let Some(span) = span {
                assert_eq!(span.to_string(), written);
            }
        }
    }
}
