//! What a plugin says of itself before it runs.

/// The version of the plugin ABI in `wit/` that this crate speaks.
pub const ABI_VERSION: &str = "0.1.0";

/// What a plugin says of itself before it runs: compact JSON in the custom section
/// `berth:manifest` of its core module. Empty lists and limits of 0 are left out.
///
/// The export macros fill it in; its fields are theirs.
#[derive(Clone, Copy, Debug)]
pub struct Manifest<'a> {
    /// `processor` or `policy`.
    pub kind: &'a str,
    /// The crate's name.
    pub name: &'a str,
    /// The crate's version.
    pub version: &'a str,
    /// The roles of models that the plugin uses.
    pub roles: &'a [&'a str],
    /// The assets that it reads.
    pub assets: &'a [&'a str],
    /// The attributes that it looks at.
    pub attributes: &'a [&'a str],
    /// The memory that it wants, in bytes; 0 for the host's default.
    pub memory: u64,
    /// The CPU time that it wants for one call, in milliseconds; 0 for the host's default.
    pub cpu_ms: u64,
}

impl Manifest<'_> {
    /// The length of the JSON text.
    pub const fn length(&self) -> usize {
        self.render::<0>().length
    }

    /// The JSON text; `N` is its [`length`](Self::length). A constant evaluation that does not
    /// compile names what is wrong: a character that would need escaping.
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        let text = self.render::<N>();
        assert!(text.length == N, "the length is not the manifest's");
        text.bytes
    }

    const fn render<const N: usize>(&self) -> Text<N> {
        let mut text = Text { bytes: [0; N], length: 0 };
        text.push("{\"abi\":");
        text.quote(ABI_VERSION);
        text.push(",\"kind\":");
        text.quote(self.kind);
        text.push(",\"name\":");
        text.quote(self.name);
        text.push(",\"version\":");
        text.quote(self.version);
        text.list(",\"roles\":", self.roles);
        text.list(",\"assets\":", self.assets);
        text.list(",\"attributes\":", self.attributes);
        if self.memory > 0 || self.cpu_ms > 0 {
            text.push(",\"limits\":{");
            if self.memory > 0 {
                text.push("\"memory\":");
                text.number(self.memory);
            }
            if self.memory > 0 && self.cpu_ms > 0 {
                text.push(",");
            }
            if self.cpu_ms > 0 {
                text.push("\"cpu_ms\":");
                text.number(self.cpu_ms);
            }
            text.push("}");
        }
        text.push("}");
        text
    }
}

/// A text built in a constant evaluation. What lies beyond `N` bytes is counted, not kept.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    const fn byte(&mut self, byte: u8) {
        if self.length < N {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn push(&mut self, part: &str) {
        let part = part.as_bytes();
        let mut at = 0;
        while at < part.len() {
            self.byte(part[at]);
            at += 1;
        }
    }

    const fn quote(&mut self, value: &str) {
        self.byte(b'"');
        let value = value.as_bytes();
        let mut at = 0;
        while at < value.len() {
            let byte = value[at];
            assert!(
                byte >= b' ' && byte != b'"' && byte != b'\\',
                "no quotes, backslashes or control characters in a manifest"
            );
            self.byte(byte);
            at += 1;
        }
        self.byte(b'"');
    }

    const fn list(&mut self, key: &str, values: &[&str]) {
        if values.is_empty() {
            return;
        }
        self.push(key);
        self.byte(b'[');
        let mut at = 0;
        while at < values.len() {
            if at > 0 {
                self.byte(b',');
            }
            self.quote(values[at]);
            at += 1;
        }
        self.byte(b']');
    }

    const fn number(&mut self, value: u64) {
        if value >= 10 {
            self.number(value / 10);
        }
        self.byte(b'0' + (value % 10) as u8);
    }
}

/// Writes the manifest of the crate that it is used in.
#[doc(hidden)]
#[macro_export]
macro_rules! write_manifest {
    ($kind:literal $(, $field:ident : $value:expr)*) => {
        const _: () = {
            // Where every field is given, there is nothing left to update.
            #[allow(clippy::needless_update, reason = "the author may give every field")]
            const MANIFEST: $crate::Manifest<'static> = $crate::Manifest {
                $($field: $value,)*
                ..$crate::Manifest {
                    kind: $kind,
                    name: ::core::env!("CARGO_PKG_NAME"),
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    roles: &[],
                    assets: &[],
                    attributes: &[],
                    memory: 0,
                    cpu_ms: 0,
                }
            };
            #[cfg(target_arch = "wasm32")]
            #[unsafe(link_section = "berth:manifest")]
            #[used]
            static JSON: [u8; MANIFEST.length()] = MANIFEST.json();
            // Elsewhere it is still checked.
            #[cfg(not(target_arch = "wasm32"))]
            const _: [u8; MANIFEST.length()] = MANIFEST.json();
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Manifest<'static> = Manifest {
        kind: "processor",
        name: "labels",
        version: "1.2.3",
        roles: &["default", "reader"],
        assets: &["labels"],
        attributes: &["user"],
        memory: 64 << 20,
        cpu_ms: 250,
    };

    const LEAST: Manifest<'static> = Manifest {
        kind: "policy",
        roles: &[],
        assets: &[],
        attributes: &[],
        memory: 0,
        cpu_ms: 0,
        ..FULL
    };

    fn check(json: &[u8], expected: serde_json::Value) {
        assert_eq!(serde_json::from_slice::<serde_json::Value>(json).unwrap(), expected);
    }

    #[test]
    fn manifests_are_compact_json() {
        const FULL_JSON: [u8; FULL.length()] = FULL.json();
        const LEAST_JSON: [u8; LEAST.length()] = LEAST.json();
        check(
            &FULL_JSON,
            serde_json::json!({
                "abi": "0.1.0", "kind": "processor", "name": "labels", "version": "1.2.3",
                "roles": ["default", "reader"], "assets": ["labels"], "attributes": ["user"],
                "limits": {"memory": 67108864, "cpu_ms": 250},
            }),
        );
        check(
            &LEAST_JSON,
            serde_json::json!({"abi": "0.1.0", "kind": "policy", "name": "labels", "version": "1.2.3"}),
        );
    }
}
