//! The declared slices of an endpoint's requests, such as `segment=vip`.

use berth_monitor::SLICES;
use berth_tensor::Name;

use crate::spec::{AttributeSource, SpecError};

/// The key of the endpoint file.
const KEY: &str = "slices";

/// The longest name of a slice, in bytes.
const LENGTH: usize = 256;

/// The most that is observed: variants times one more than there are slices.
const OBSERVED: usize = 320;

/// Says what is wrong with the slices of a file with these attributes and so many variants.
pub(crate) fn check<'a>(
    slices: &[String],
    attributes: impl Iterator<Item = &'a Name> + Clone,
    variants: usize,
) -> Result<(), SpecError> {
    if slices.len() > SLICES {
        return Err(SpecError::new(KEY, format!("at most {SLICES}")));
    }
    if !slices.is_empty() && variants * (slices.len() + 1) > OBSERVED {
        let problem = format!(
            "{} of {variants} variants are too many to observe: variants times one more than there are slices come to {OBSERVED} at most",
            slices.len()
        );
        return Err(SpecError::new(KEY, problem));
    }
    for (index, slice) in slices.iter().enumerate() {
        let problem = match slice.split_once('=') {
            None | Some((_, "")) => "is no slice: give ATTRIBUTE=VALUE, such as segment=vip",
            Some((name, _)) if !attributes.clone().any(|known| known.as_str() == name) => {
                "is of an attribute that is not declared"
            }
            _ if slice.len() > LENGTH => "is longer than 256 bytes",
            _ if slices[..index].contains(slice) => "is there twice",
            _ => continue,
        };
        return Err(SpecError::new(KEY, format!("{slice:?} {problem}")));
    }
    Ok(())
}

/// The slices as requests are held against them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slices(Vec<Slice>);

#[derive(Clone, Debug, PartialEq)]
struct Slice {
    attribute: String,
    value: String,
}

impl Slices {
    /// Of slices that were checked.
    pub(crate) fn new(slices: &[String]) -> Self {
        let slice = |slice: &String| {
            let (attribute, value) = slice.split_once('=')?;
            Some(Slice { attribute: attribute.to_owned(), value: value.to_owned() })
        };
        Self(slices.iter().filter_map(slice).collect())
    }

    /// Those that a request with these attributes is in, a bit each, the first one the lowest.
    pub(crate) fn of(&self, attributes: &[(String, String)]) -> u16 {
        let has = |slice: &Slice| {
            let mut named = attributes.iter().filter(|(name, _)| *name == slice.attribute);
            named.any(|(_, value)| *value == slice.value)
        };
        self.bits(has)
    }

    /// The same where the attributes are still to be read, from where `source` says.
    pub(crate) fn read<E>(
        &self,
        source: impl Fn(&str) -> Option<AttributeSource>,
        mut read: impl FnMut(&AttributeSource) -> Result<Option<String>, E>,
    ) -> Result<u16, E> {
        let mut values: Vec<(&str, Option<String>)> = Vec::new();
        for Slice { attribute, .. } in &self.0 {
            if values.iter().all(|(known, _)| known != attribute) {
                let value = source(attribute).map(|source| read(&source)).transpose()?;
                values.push((attribute, value.flatten()));
            }
        }
        let has = |slice: &Slice| {
            let mut named = values.iter().filter(|(name, _)| *name == slice.attribute);
            named.any(|(_, value)| value.as_ref() == Some(&slice.value))
        };
        Ok(self.bits(has))
    }

    fn bits(&self, has: impl Fn(&Slice) -> bool) -> u16 {
        let slices = self.0.iter().enumerate();
        slices.fold(0, |bits, (at, slice)| bits | u16::from(has(slice)) << at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_the_slices_whose_values_it_has() {
        let named = ["segment=vip", "region=eu", "segment=a=b"].map(str::to_owned);
        let slices = Slices::new(&named);
        for (attributes, expected) in [
            (&[][..], 0),
            (&[("segment", "vip")][..], 0b001),
            (&[("region", "eu"), ("segment", "a=b")], 0b110),
            (&[("region", "vip"), ("segment", "eu")], 0),
        ] {
            let owned: Vec<(String, String)> =
                attributes.iter().map(|&(name, value)| (name.into(), value.into())).collect();
            assert_eq!(slices.of(&owned), expected, "{attributes:?}");
            let source = |name: &str| Some(AttributeSource::Header(format!("x-{name}")));
            let read = |source: &AttributeSource| {
                let AttributeSource::Header(header) = source else { return Err(()) };
                let found = attributes.iter().find(|(name, _)| header[2..] == **name);
                Ok(found.map(|(_, value)| (*value).to_owned()))
            };
            assert_eq!(slices.read(source, read), Ok(expected), "{attributes:?}");
        }
    }

    #[test]
    fn what_is_no_slice_is_named() {
        let known: [Name; 1] = ["segment".parse().unwrap()];
        let many: Vec<String> = (0..17).map(|at| format!("segment={at}")).collect();
        let given = |slices: &[&str]| slices.iter().map(|&slice| slice.to_owned()).collect();
        for (slices, variants, problem) in [
            (given(&["segment=vip"]), 2, None),
            (given(&["segment"]), 2, Some("is no slice")),
            (given(&["segment="]), 2, Some("is no slice")),
            (given(&["region=eu"]), 2, Some("is not declared")),
            (given(&["segment=a", "segment=a"]), 2, Some("is there twice")),
            (many.clone(), 2, Some("at most 16")),
            (many[..16].to_vec(), 20, Some("too many to observe")),
        ] {
            match (check(&slices, known.iter(), variants), problem) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
                (checked, _) => panic!("{slices:?}: {checked:?}"),
            }
        }
    }
}
