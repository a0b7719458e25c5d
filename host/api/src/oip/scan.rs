//! JSON, read in one pass without building a tree.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr2, memchr3};

/// Arrays and objects inside one another, at most.
const DEPTH: u32 = 100;

/// What is wrong with a body.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It is no JSON.
    Syntax {
        /// Where, in bytes from the start.
        at: usize,
        /// What is wrong there.
        problem: String,
    },
    /// It is JSON, but not what is called for.
    Value(String),
}

pub(super) type Scanned<T> = Result<T, Fault>;

/// What a value is, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    /// A number, or one of `NaN`, `Infinity` and `-Infinity`.
    Number,
    Boolean,
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Null => "null",
        })
    }
}

/// A place in a JSON text.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Bytes from here to the end.
    pub(super) fn remaining(&self) -> usize {
        self.text.len() - self.at
    }

    /// What the next value is.
    pub(super) fn kind(&mut self) -> Scanned<Kind> {
        Ok(match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Kind::Number,
            _ => return Err(self.wrong("expected a value")),
        })
    }

    /// Whether the next value is an array whose first item is an array.
    pub(super) fn is_nested(&self) -> bool {
        let mut ahead = self.clone();
        ahead.take(b'[') && ahead.peek() == Some(b'[')
    }

    /// Reads an array; `item` must read one value each time. `what` names it when it is none.
    pub(super) fn array(
        &mut self,
        what: &str,
        mut item: impl FnMut(&mut Self) -> Scanned<()>,
    ) -> Scanned<()> {
        self.require(Kind::Array, what)?;
        self.enter()?;
        if !self.take(b']') {
            loop {
                item(self)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b']', "expected ',' or ']'")?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads an object; `member` gets each key and must read one value. `what` names it when it is
    /// none.
    pub(super) fn object(
        &mut self,
        what: &str,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Scanned<()>,
    ) -> Scanned<()> {
        self.require(Kind::Object, what)?;
        self.enter()?;
        if !self.take(b'}') {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.wrong("expected a key in quotes"));
                }
                let key = self.string("a key")?;
                self.expect(b':', "expected ':'")?;
                member(self, key)?;
                if !self.take(b',') {
                    break;
                }
            }
            self.expect(b'}', "expected ',' or '}'")?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a string, borrowed when nothing in it is escaped.
    pub(super) fn string(&mut self, what: &str) -> Scanned<Cow<'a, str>> {
        self.require(Kind::String, what)?;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut plain = true;
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    end += 2;
                }
                Some(0..0x20) => {
                    self.at = end;
                    return Err(self.wrong("a control character in a string must be escaped"));
                }
                Some(_) => end += 1,
                None => return Err(self.wrong("this string does not end")),
            }
        }
        let token = &self.text[start..=end];
        if plain {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&token[1..token.len() - 1]));
        }
        match serde_json::from_str(token) {
            Ok(text) => {
                self.at = end + 1;
                Ok(Cow::Owned(text))
            }
            Err(_) => Err(self.wrong("a string with an unknown escape")),
        }
    }

    /// Reads a number and returns its text.
    pub(super) fn number(&mut self, what: &str) -> Scanned<&'a str> {
        self.require(Kind::Number, what)?;
        let start = self.at;
        self.eat(b"-");
        let whole = self.digits();
        let leading_zero = whole > 1 && self.text.as_bytes()[self.at - whole] == b'0';
        let fraction = !self.eat(b".") || self.digits() > 0;
        let exponent = !self.eat(b"eE") || {
            self.eat(b"+-");
            self.digits() > 0
        };
        if whole == 0 || leading_zero || !fraction || !exponent {
            self.at = start;
            return Err(self.wrong("expected a number"));
        }
        Ok(&self.text[start..self.at])
    }

    /// Reads a number of at most seven digits without an exponent, as most are; none, with nothing
    /// read, for any other.
    ///
    /// Both the digits as an integer and the power of ten are exact in an `f32`, so that their
    /// quotient is rounded once, to the nearest: W. Clinger, "How to read floating point numbers
    /// accurately", 1990.
    pub(super) fn short_decimal(&mut self) -> Option<f32> {
        const POWERS: [f32; 8] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
        self.peek();
        let bytes = &self.text.as_bytes()[self.at..];
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let (mut digits, mut at, mut point) = (0u32, start, None);
        loop {
            match bytes.get(at) {
                // Seven digits and a point.
                Some(b'0'..=b'9') if at - start >= 8 => return None,
                Some(&digit @ b'0'..=b'9') => digits = 10 * digits + u32::from(digit - b'0'),
                Some(b'.') if point.is_none() && at > start => point = Some(at),
                _ => break,
            }
            at += 1;
        }
        let whole = point.unwrap_or(at) - start;
        let fraction = point.map_or(0, |point| at - point - 1);
        let leading_zero = whole > 1 && bytes[start] == b'0';
        let ends = !matches!(bytes.get(at), Some(b'.' | b'e' | b'E' | b'+' | b'-'));
        if whole == 0
            || whole + fraction > 7
            || leading_zero
            || !ends
            || (point.is_some() && fraction == 0)
        {
            return None;
        }
        self.at += at;
        let value = digits as f32 / POWERS[fraction];
        Some(if negative { -value } else { value })
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&mut self, what: &str) -> Scanned<bool> {
        self.require(Kind::Boolean, what)?;
        if self.word("true") {
            Ok(true)
        } else if self.word("false") {
            Ok(false)
        } else {
            Err(self.wrong("expected a value"))
        }
    }

    /// Reads `null` if it comes next.
    pub(super) fn null(&mut self) -> bool {
        self.peek();
        self.word("null")
    }

    /// Reads `NaN`, `Infinity` or `-Infinity` if it comes next.
    pub(super) fn not_finite(&mut self) -> Option<f64> {
        let bytes = self.text.as_bytes();
        match self.peek() {
            Some(b'N' | b'I') => {}
            Some(b'-') if bytes.get(self.at + 1) == Some(&b'I') => {}
            _ => return None,
        }
        let words =
            [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];
        words.into_iter().find_map(|(word, value)| self.word(word).then_some(value))
    }

    /// Reads any value and drops it.
    pub(super) fn skip(&mut self) -> Scanned<()> {
        match self.kind()? {
            Kind::Object => self.object("", |scan, _| scan.skip()),
            Kind::Array => self.array("", Self::skip),
            Kind::String => self.string("").map(drop),
            Kind::Boolean => self.boolean("").map(drop),
            Kind::Number if self.not_finite().is_some() => Ok(()),
            Kind::Number => self.number("").map(drop),
            Kind::Null if self.null() => Ok(()),
            Kind::Null => Err(self.wrong("expected a value")),
        }
    }

    /// Passes over an array without looking at what is in it, for whoever reads it later; any other
    /// value is read and dropped.
    pub(super) fn pass_over(&mut self) -> Scanned<()> {
        if self.kind()? != Kind::Array {
            return self.skip();
        }
        let bytes = self.text.as_bytes();
        let rest = |at: usize| bytes.get(at..).unwrap_or_default();
        let (mut at, mut inside) = (self.at, 0usize);
        loop {
            let Some(found) = memchr3(b'[', b']', b'"', rest(at)) else {
                return Err(self.wrong("this array does not end"));
            };
            at += found + 1;
            match bytes[at - 1] {
                b'[' => inside += 1,
                b']' if inside == 1 => break,
                b']' => inside -= 1,
                _ => {
                    while let Some(found) = memchr2(b'"', b'\\', rest(at)) {
                        at += found + 1;
                        if bytes[at - 1] == b'"' {
                            break;
                        }
                        // What is escaped.
                        at += 1;
                    }
                }
            }
        }
        self.at = at;
        Ok(())
    }

    /// Refuses anything but white space up to the end.
    pub(super) fn end(&mut self) -> Scanned<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("expected the end")),
        }
    }

    /// The next byte that is no white space; it stays.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, problem: &str) -> Scanned<()> {
        if self.take(byte) { Ok(()) } else { Err(self.wrong(problem)) }
    }

    fn require(&mut self, kind: Kind, what: &str) -> Scanned<()> {
        let found = self.kind()?;
        if found == kind {
            return Ok(());
        }
        Err(Fault::Value(format!("{what} must be {kind}, got {found}")))
    }

    fn enter(&mut self) -> Scanned<()> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.wrong(&format!("nesting is deeper than the limit of {DEPTH}")));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    /// Takes one byte if it is one of `set`, without looking past white space.
    fn eat(&mut self, set: &[u8]) -> bool {
        let found = self.text.as_bytes().get(self.at).is_some_and(|byte| set.contains(byte));
        self.at += usize::from(found);
        found
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn wrong(&self, problem: &str) -> Fault {
        let problem = if self.at >= self.text.len() {
            format!("{problem}, got the end")
        } else {
            problem.to_owned()
        };
        Fault::Syntax { at: self.at, problem }
    }
}

/// At most 64 characters of a text that someone else wrote, for a message.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Scanned<()> {
        let mut scan = Scanner::new(text);
        scan.skip()?;
        scan.end()
    }

    #[test]
    fn syntax_is_told_as_serde_json_tells_it() {
        let good = r#" {"a": [1, -2.5e+3, 0, 0.5E-7, {"b": null}], "\u00e9\n\"": "\ud83d\ude00x", "": [], "c": {}, "d": [true, false, "end"]} "#;
        let alphabet = b"{}[]\",:\\ 0123.eE+-tfnua\n\x01";
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as usize % below
        };
        let mut accepted = 0;
        for round in 0..200_000 {
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..round % 4 {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = alphabet[random(alphabet.len())],
                    1 => bytes.insert(at, alphabet[random(alphabet.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            // serde_json skips a string in an ignored value without decoding it, so a tree is made.
            let expected = serde_json::from_str::<serde_json::Value>(&text);
            let range =
                expected.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            assert!(range || whole(&text).is_ok() == expected.is_ok(), "{text}: {expected:?}");
            accepted += u32::from(expected.is_ok());
        }
        assert!(accepted > 50_000 && accepted < 190_000, "{accepted}");
    }

    #[test]
    fn short_decimals_are_what_the_standard_library_reads() {
        let check = |text: &str| {
            let mut scan = Scanner::new(text);
            let Some(value) = scan.short_decimal() else {
                assert_eq!(scan.at, 0, "{text}");
                return false;
            };
            assert_eq!(value.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{text}");
            assert!(serde_json::from_str::<f64>(text).is_ok(), "{text} is no JSON");
            assert_eq!(scan.at, text.len());
            true
        };
        for text in ["0", "-0", "-0.0", "12.5", "0.1", "9999999", "0.000001", "123.4567", "-7"] {
            assert!(check(text), "{text} is short");
        }
        for text in [
            "01",
            "1.",
            ".5",
            "-",
            "1e3",
            "1.2.3",
            "12345678",
            "1234.5678",
            "+1",
            "1-2",
            "18446744.0737",
            "123456789012345678901234567890",
        ] {
            assert!(!check(text), "{text} is not");
        }
        let mut state = 0x1234_5678_9ABC_DEF1_u64;
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (digits, fraction) = ((state >> 32) % 10_000_000, (state >> 20) % 7);
            let text = format!("{digits:07}");
            let (whole, rest) = text.split_at(7 - fraction as usize);
            let whole = whole.trim_start_matches('0');
            let whole = if whole.is_empty() { "0" } else { whole };
            let text = if rest.is_empty() { whole.into() } else { format!("{whole}.{rest}") };
            check(&text);
        }
    }

    #[test]
    fn strings_come_out_as_serde_json_reads_them() {
        for text in
            [r#""""#, r#""plain é 😀""#, r#""\u0000\ud83d\ude00\/\\\"\t""#, "\"\u{7f}\u{2028}\""]
        {
            let expected: String = serde_json::from_str(text).unwrap();
            assert_eq!(Scanner::new(text).string("it").unwrap(), expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(whole(&nested(100)), Ok(()));
        let problem = "nesting is deeper than the limit of 100".into();
        assert_eq!(whole(&nested(101)), Err(Fault::Syntax { at: 100, problem }));
        assert!(whole(&"[".repeat(1_000_000)).is_err());
        assert!(whole(&"{\"a\":".repeat(1_000_000)).is_err());
    }
}
