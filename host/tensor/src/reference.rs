//! Names, and references to versions of what they name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The name of a model, plugin, endpoint or variant: 1 to 64 of `a`–`z`, `0`–`9`, `-`, `_` and `.`,
/// starting with a letter or digit. Safe as a path segment, a label and a header value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The text is no name or no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The name part breaks the rules of [`Name`].
    #[error(
        "{0:?} is no name: use 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    Name(String),
    /// What follows the `@` is missing or no version, alias or digest.
    #[error("{0:?} is no reference: use NAME@VERSION, NAME@ALIAS or NAME@sha256:DIGEST")]
    Selector(String),
}

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = bytes.len() <= 64
            && bytes.first().is_some_and(alphanumeric)
            && bytes.iter().all(|c| alphanumeric(c) || matches!(c, b'-' | b'_' | b'.'));
        if fits { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Name(text.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which version of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// By number, from 1.
    Version(u64),
    /// By a movable name.
    Alias(Name),
    /// By content.
    Digest(Digest),
}

/// A reference to a version: `digits@3`, `digits@champion` or `digits@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// The model's or plugin's name.
    pub name: Name,
    /// Which version of it.
    pub selector: Selector,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let wrong = || ReferenceError::Selector(text.to_owned());
        let (name, selector) = text.split_once('@').ok_or_else(wrong)?;
        let name = name.parse()?;
        let selector = if let Some(digest) = selector.strip_prefix("sha256:") {
            Selector::Digest(digest.parse().map_err(|_| wrong())?)
        } else if selector.bytes().all(|c| c.is_ascii_digit()) {
            Selector::Version(
                selector.parse().ok().filter(|&version| version > 0).ok_or_else(wrong)?,
            )
        } else {
            Selector::Alias(selector.parse().map_err(|_| wrong())?)
        };
        Ok(Self { name, selector })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Version(version) => write!(f, "{}@{version}", self.name),
            Selector::Alias(alias) => write!(f, "{}@{alias}", self.name),
            Selector::Digest(digest) => write!(f, "{}@sha256:{digest}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, fits: bool) {
        match text.parse::<Reference>() {
            Ok(reference) => assert!(fits && reference.to_string() == text, "{text}"),
            Err(error) => assert!(!fits, "{error}"),
        }
    }

    #[test]
    fn references() {
        check("digits@3", true);
        check("digits@champion", true);
        check(&format!("digits@sha256:{}", Digest::of(b"x")), true);
        check("digits", false);
        check("digits@", false);
        check("digits@0", false);
        check("digits@sha256:12", false);
        check("Digits@1", false);
        check("../x@1", false);
        check("@1", false);
        check(&format!("{}@1", "a".repeat(65)), false);
    }
}
