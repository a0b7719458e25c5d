//! Texts out of requests.

use std::fmt;

use berth_sdk::{Error, Request};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::plan::Plan;

/// The most texts that any configuration lets through: what is read before it is counted.
pub(crate) const TEXTS: usize = 2048;

/// The name of the tensor of texts, where they come as one.
pub(crate) const INPUT: &str = "input";

/// A body: `{"input": "a text"}` or `{"input": ["a text", "another"]}`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    input: Texts,
}

#[derive(Debug)]
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral)
    }
}

struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            if texts.len() == TEXTS {
                return Err(de::Error::custom(format!("more than {TEXTS} texts")));
            }
            texts.push(text);
        }
        Ok(Texts(texts))
    }
}

/// The texts of a request. What is wrong with them is the caller's error.
pub(crate) fn read(request: &Request, plan: &Plan) -> Result<Vec<String>, Error> {
    let texts = if request.tensor_names().is_empty() {
        request.json::<Body>()?.input.0
    } else {
        let tensor = request.tensor(INPUT)?;
        let count = tensor.shape().iter().fold(1, |count: u64, &size| count.saturating_mul(size));
        check_count(count, plan.max_texts)?;
        let texts = tensor.to_byte_strings().map_err(Error::caller)?.into_iter().enumerate();
        let text = |(at, bytes)| {
            String::from_utf8(bytes).map_err(|error| {
                Error::caller(format!("text {at} is not in UTF-8: {}", error.utf8_error()))
            })
        };
        texts.map(text).collect::<Result<_, _>>()?
    };
    check_count(texts.len() as u64, plan.max_texts)?;
    match texts.iter().position(|text| text.len() > plan.max_bytes) {
        None => Ok(texts),
        Some(at) => Err(Error::caller(format!(
            "text {at} has {} bytes; at most {} are taken",
            texts[at].len(),
            plan.max_bytes
        ))),
    }
}

fn check_count(count: u64, most: usize) -> Result<(), Error> {
    match count {
        0 => Err(Error::caller("send one text or more")),
        _ if count > most as u64 => {
            Err(Error::caller(format!("{count} texts; at most {most} are taken in one request")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_one_text_or_several() {
        let check = |json: &str, expected: Result<&[&str], &str>| match (
            serde_json::from_str::<Body>(json),
            expected,
        ) {
            (Ok(body), Ok(texts)) => assert_eq!(body.input.0, texts),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{found:?}, expected {expected:?}"),
        };
        check(r#"{"input": "a"}"#, Ok(&["a"]));
        check(r#"{"input": ["a", "", "\u00e9\ud83d\ude00"]}"#, Ok(&["a", "", "é😀"]));
        check(r#"{"input": []}"#, Ok(&[]));
        check(
            r#"{"input": 1}"#,
            Err("invalid type: integer `1`, expected a text or a list of texts"),
        );
        check(r#"{"input": ["a", null]}"#, Err("invalid type: null, expected a string"));
        check(r#"{"input": "\ud800"}"#, Err("unexpected end of hex escape"));
        check(r#"{"texts": []}"#, Err("unknown field `texts`, expected `input`"));
        check("{}", Err("missing field `input`"));
        let many = |count| format!(r#"{{"input": [{}""]}}"#, "\"\",".repeat(count - 1));
        check(&many(TEXTS), Ok(&[""; TEXTS]));
        check(&many(TEXTS + 1), Err("more than 2048 texts"));
    }
}
