//! The pictures of a body of several: `multipart/form-data` as browsers and `curl -F` send it.

/// The media type.
pub(crate) const FORM: &str = "multipart/form-data";

/// The most pictures that a request may hold.
pub(crate) const PICTURES: usize = 64;

/// The most bytes of a part's head.
const HEAD: usize = 4096;

#[derive(Debug, PartialEq)]
pub(crate) struct Part<'a> {
    /// The file's name as the sender gives it, for messages; empty without one.
    pub(crate) name: String,
    pub(crate) content: &'a [u8],
}

/// What separates the parts, where the media type is that of a form.
pub(crate) fn boundary(content_type: &str) -> Result<Option<String>, String> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case(FORM) {
        return Ok(None);
    }
    let boundary = parameter(parameters, "boundary").filter(|boundary| !boundary.is_empty());
    let boundary = boundary.filter(|boundary| boundary.len() <= 70);
    boundary.map(Some).ok_or_else(|| {
        format!("the content type says {FORM} without a boundary of 1 to 70 characters")
    })
}

/// The value of a parameter such as `name="cat"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        key.trim().eq_ignore_ascii_case(name).then(|| quoted.unwrap_or(value).to_owned())
    })
}

/// The parts in order. The error says to the caller what is wrong with the body.
pub(crate) fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, String> {
    let cut = || format!("the {FORM} body ends early");
    let separator = format!("\r\n--{boundary}");
    let separator = separator.as_bytes();
    let start = match body.starts_with(&separator[2..]) {
        true => Some(separator.len() - 2),
        false => find(body, separator).map(|at| at + separator.len()),
    };
    let start = start.ok_or_else(|| {
        format!("the body holds no part that begins with the boundary `{boundary}`")
    })?;
    let mut rest = &body[start..];
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        if parts.len() == PICTURES {
            return Err(format!("the body holds more than {PICTURES} pictures"));
        }
        // White space may follow the separator; then come lines, each after a break, and an empty
        // one.
        let within = |bytes: &'a [u8]| &bytes[..bytes.len().min(HEAD)];
        let head = &rest[find(within(rest), b"\r\n").ok_or_else(cut)?..];
        let end = find(within(head), b"\r\n\r\n")
            .ok_or_else(|| format!("part {} has no head that ends", parts.len() + 1))?;
        let (lines, content) = (&head[..end], &head[end + 4..]);
        let end = find(content, separator).ok_or_else(cut)?;
        parts.push(Part { name: file_name(lines), content: &content[..end] });
        rest = &content[end + separator.len()..];
    }
    if parts.is_empty() {
        return Err("the body holds no picture".to_owned());
    }
    Ok(parts)
}

/// Where it first occurs.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window[0] == wanted[0] && window == wanted)
}

fn file_name(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head);
    let name = head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let disposition = key.trim().eq_ignore_ascii_case("content-disposition");
        disposition.then(|| parameter(value, "filename")).flatten()
    });
    name.unwrap_or_default().chars().filter(|character| !character.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<&[(&str, &str)], &str>) {
        match (parts(body.as_bytes(), "xx"), expected) {
            (Ok(parts), Ok(expected)) => {
                let found: Vec<_> = parts
                    .iter()
                    .map(|part| (part.name.as_str(), std::str::from_utf8(part.content).unwrap()))
                    .collect();
                assert_eq!(found, expected, "{body:?}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{body:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let one = "--xx\r\nContent-Disposition: form-data; name=\"a\"; filename=\"cat.jpg\"\r\nContent-Type: image/jpeg\r\n\r\nmeow\r\n--xx--\r\n";
        check(one, Ok(&[("cat.jpg", "meow")]));
        check(
            "preamble\r\n--xx  \r\ncontent-disposition: form-data; FileName=b\r\n\r\n1\r\n--xx\r\nX: y\r\n\r\n\r\n--xx--",
            Ok(&[("b", "1"), ("", "")]),
        );
        check("--xx\r\n\r\n1\r\n--xx--", Ok(&[("", "1")]));
        check("--xx\r\nA: b\r\n\r\n--x\r\n-xx\r\n--xx--", Ok(&[("", "--x\r\n-xx")]));
        check(&one[..one.len() - 12], Err("ends early"));
        check("--xx\r\nA: b\r\n", Err("no head"));
        check("--xx", Err("ends early"));
        check("--xx--\r\n", Err("no picture"));
        check("", Err("no part"));
        check("--yy\r\n\r\n\r\n", Err("boundary `xx`"));
        let part = "\r\n--xx\r\nA: b\r\n\r\n1";
        check(&format!("{}\r\n--xx--", part.repeat(65)), Err("more than 64"));
        check(&format!("--xx\r\nA: {}\r\n\r\n1\r\n--xx--", "b".repeat(5000)), Err("no head"));
    }

    #[test]
    fn the_boundary_is_in_the_content_type() {
        let check = |content_type: &str, expected: Result<Option<&str>, ()>| {
            let found = boundary(content_type);
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|_| ()), expected);
        };
        check("image/png", Ok(None));
        check("", Ok(None));
        check("multipart/form-data; boundary=a-b", Ok(Some("a-b")));
        check("Multipart/Form-Data;charset=x; Boundary=\"a b\"", Ok(Some("a b")));
        check("multipart/form-data", Err(()));
        check("multipart/form-data; boundary=", Err(()));
    }
}
