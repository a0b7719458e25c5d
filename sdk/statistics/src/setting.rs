//! What whoever asks a question has to choose, checked once, when the configuration is read.

use serde::Deserialize;
use thiserror::Error;

/// A setting that makes no sense.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SettingError {
    /// Of an [`Alpha`].
    #[error("{0} is no rate of false alarms: use a number above 0, at most 0.5, such as 0.05")]
    Alpha(f64),
    /// Of an [`Effect`].
    #[error("{0} is no effect to look for: use a finite number above 0, in the metric's own unit")]
    Effect(f64),
    /// Of a [`Power`].
    #[error("{0} is no power: use a number from 0.5 to below 1, such as 0.8")]
    Power(f64),
    /// Of a [`Quantile`].
    #[error("{0} is no quantile: use a number between 0 and 1, such as 0.95")]
    Quantile(f64),
    /// Of a [`Share`].
    #[error("{0} is no share: use a number between 0 and 1, such as 0.5")]
    Share(f64),
}

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
        #[serde(try_from = "f64")]
        pub struct $name(f64);

        impl $name {
            /// The number as a setting, when it is one.
            pub fn new(value: f64) -> Result<Self, SettingError> {
                let fits: fn(f64) -> bool = $fits;
                if fits(value) { Ok(Self(value)) } else { Err(SettingError::$name(value)) }
            }

            /// The number.
            pub fn value(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = SettingError;

            fn try_from(value: f64) -> Result<Self, SettingError> {
                Self::new(value)
            }
        }
    };
}

setting! {
    /// How often a test may find what is not there: above 0, at most 0.5. The interval beside it
    /// covers the truth with probability 1 − alpha.
    Alpha, |value| value > 0.0 && value <= 0.5
}
setting! {
    /// The smallest effect worth finding, in the metric's own unit (0.01 of a rate is one
    /// percentage point): finite, above 0.
    Effect, |value| value > 0.0 && value.is_finite()
}
setting! {
    /// How often an effect of the designed size is to be found: from 0.5 to below 1.
    Power, |value| (0.5..1.0).contains(&value)
}
setting! {
    /// Which part of the values lies at or below: between 0 and 1.
    Quantile, |value| value > 0.0 && value < 1.0
}
setting! {
    /// The part of the units, or of requests, that the candidate gets: between 0 and 1.
    Share, |value| value > 0.0 && value < 1.0
}

impl Alpha {
    /// The alpha of each of several tests of which none is to give a false alarm (Bonferroni):
    /// alpha / tests.
    pub fn among(self, tests: usize) -> Self {
        Self(self.0 / tests.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_use() {
        for value in [0.0, -0.1, 0.51, f64::NAN, f64::INFINITY] {
            let error = Alpha::new(value).unwrap_err().to_string();
            assert!(error.contains("use a number above 0, at most 0.5"), "{error}");
        }
        assert!(Effect::new(0.0).is_err() && Effect::new(f64::INFINITY).is_err());
        assert!(Power::new(0.4).is_err() && Power::new(1.0).is_err());
        assert!(Quantile::new(0.0).is_err() && Quantile::new(1.0).is_err());
        assert!(Share::new(0.0).is_err() && Share::new(f64::NAN).is_err());
        assert_eq!(Alpha::new(0.05).unwrap().among(5).value(), 0.01);
    }

    #[test]
    fn a_configuration_holds_them() {
        #[derive(Debug, Deserialize)]
        struct Config {
            alpha: Alpha,
        }
        let config: Config = serde_json::from_str(r#"{"alpha": 0.05}"#).unwrap();
        assert_eq!(config.alpha.value(), 0.05);
        let error = serde_json::from_str::<Config>(r#"{"alpha": 5}"#).unwrap_err();
        assert!(error.to_string().starts_with("5 is no rate of false alarms"), "{error}");
    }
}
