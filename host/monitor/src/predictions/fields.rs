//! Fields of bodies of JSON: those that are chosen, and those that are left out.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;

/// What there is of a body.
pub(crate) struct Read {
    /// The fields that were asked for, by name.
    pub(crate) fields: Vec<(String, String)>,
    /// All of it but what is redacted; none where that could not be told.
    pub(crate) body: Option<Bytes>,
}

/// Whether what is redacted has this place in it.
pub(crate) fn hides(redact: &BTreeSet<String>, place: &str) -> bool {
    let of = |place: &str| place.split('/').map(str::to_owned).collect::<Vec<_>>();
    let place = of(place);
    redact.iter().filter(|name| name.starts_with('/')).any(|name| {
        let name = of(name);
        name.len() <= place.len()
            && name.iter().zip(&place).all(|(name, part)| name == part || name == "*")
    })
}

/// Reads a body: the fields among `named`, and the body without those among `redact`.
pub(crate) fn read(
    named: &[String],
    redact: &BTreeSet<String>,
    content_type: Option<&str>,
    bytes: Bytes,
) -> Read {
    let pointers = |name: &&String| name.starts_with('/');
    let (mut named, mut hidden) =
        (named.iter().filter(pointers).peekable(), redact.iter().filter(pointers).peekable());
    if named.peek().is_none() && hidden.peek().is_none() {
        return Read { fields: Vec::new(), body: Some(bytes) };
    }
    let Ok(mut json) = serde_json::from_slice::<Value>(&bytes) else {
        // What others may still read as JSON might have what is to be left out.
        let keep = hidden.peek().is_none() || !may_be_json(content_type, &bytes);
        return Read { fields: Vec::new(), body: keep.then_some(bytes) };
    };
    let redacts = hidden.peek().is_some();
    for pointer in hidden {
        let parts: Vec<String> = pointer.split('/').skip(1).map(unescaped).collect();
        remove(&mut json, &parts);
    }
    let field = |name: &String| {
        let text = match json.pointer(name)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((name.clone(), text))
    };
    let fields = named.filter_map(field).collect();
    // Written anew even where nothing was found: of two members of one name only the last was seen.
    let body = match redacts {
        true => serde_json::to_vec(&json).ok().map(Bytes::from),
        false => Some(bytes),
    };
    Read { fields, body }
}

fn may_be_json(content_type: Option<&str>, bytes: &[u8]) -> bool {
    let first = bytes.trim_ascii_start().first();
    content_type.is_none_or(|of| of.to_ascii_lowercase().contains("json"))
        || matches!(first, Some(b'{' | b'[' | 0xef | 0xfe | 0xff))
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// Takes away what is at a place; `*` is every member.
fn remove(value: &mut Value, parts: &[String]) {
    let [first, rest @ ..] = parts else { return };
    match value {
        Value::Object(map) if rest.is_empty() => match first.as_str() {
            "*" => map.clear(),
            name => drop(map.remove(name)),
        },
        Value::Object(map) => {
            let members = map.iter_mut().filter(|(name, _)| first == "*" || *name == first);
            members.for_each(|(_, member)| remove(member, rest));
        }
        Value::Array(list) => {
            let place = first.parse::<usize>().ok();
            let members = list.iter_mut().enumerate();
            for (_, member) in members.filter(|(at, _)| first == "*" || place == Some(*at)) {
                match rest.is_empty() {
                    true => *member = Value::Null,
                    false => remove(member, rest),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_chosen_and_left_out() {
        let json = r#"{"user": {"id": 7, "email": "a@b", "a/b": 1}, "items": [{"x": "one", "y": 1}, {"y": 2}]}"#;
        let double = r#"{"user": {"email": "a@b"}, "user": {"id": 7}}"#;
        let (typed, text) = (Some("application/json"), Some("text/plain"));
        for (named, redact, content_type, body, fields, left) in [
            ("", "", typed, json, "", Some(json)),
            ("/user/id /items/0/x /none", "", typed, json, "/user/id=7 /items/0/x=one", Some(json)),
            ("/items/1", "", None, json, r#"/items/1={"y":2}"#, Some(json)),
            (
                "/user",
                "/user/email /items/*/y /user/a~1b",
                None,
                json,
                r#"/user={"id":7}"#,
                Some(r#"{"items":[{"x":"one"},{}],"user":{"id":7}}"#),
            ),
            (
                "",
                "/items/0",
                text,
                json,
                "",
                Some(r#"{"items":[null,{"y":2}],"user":{"a/b":1,"email":"a@b","id":7}}"#),
            ),
            ("", "/user/email", typed, double, "", Some(r#"{"user":{"id":7}}"#)),
            ("/user", "/user/*", typed, double, "/user={}", Some(r#"{"user":{}}"#)),
            // No JSON: kept where it cannot be taken for such.
            ("/user", "/user/email", text, "plain", "", Some("plain")),
            ("/user", "", typed, "{\"user\"", "", Some("{\"user\"")),
            ("", "/user/email", typed, "plain", "", None),
            ("", "/user/email", text, "{\"user\"", "", None),
            ("", "/user/email", None, "user", "", None),
        ] {
            let names =
                |names: &str| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let redacted = names(redact).into_iter().collect();
            let body = Bytes::copy_from_slice(body.as_bytes());
            let read = read(&names(named), &redacted, content_type, body.clone());
            let found: Vec<String> =
                read.fields.iter().map(|(name, text)| format!("{name}={text}")).collect();
            assert_eq!(found.join(" "), fields, "{named} {redact} {body:?}");
            assert_eq!(read.body.as_deref(), left.map(str::as_bytes), "{named} {redact} {body:?}");
        }
    }

    #[test]
    fn what_is_below_a_redacted_place_is_redacted() {
        let redact = ["/user", "/items/*/y", "region"].map(str::to_owned).into();
        for (place, expected) in [
            ("/user", true),
            ("/user/email", true),
            ("/users", false),
            ("/items/3/y", true),
            ("/items/3", false),
            ("region", false),
        ] {
            assert_eq!(hides(&redact, place), expected, "{place}");
        }
    }
}
