//! `berth:plugin/metrics`: a processor's own numbers.

use crate::bindings::processor::berth::plugin::metrics::Host;
use crate::state::State;

impl Host for State {
    fn count(&mut self, name: String, by: u64) -> wasmtime::Result<()> {
        if well_named(&name) {
            self.bindings.sink.count(&name, by);
            self.request.reports.add(&name, by as f64);
        } else {
            self.bindings.sink.dropped();
        }
        Ok(())
    }

    fn observe(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        if well_named(&name) && value.is_finite() {
            self.bindings.sink.observe(&name, value);
            self.request.reports.add(&name, value);
        } else {
            self.bindings.sink.dropped();
        }
        Ok(())
    }
}

fn well_named(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, fits) in [
            ("faces", true),
            ("faces_2", true),
            ("", false),
            ("2faces", false),
            ("a-b", false),
            ("Aa", false),
        ] {
            assert_eq!(well_named(name), fits, "{name}");
        }
        assert!(!well_named(&"a".repeat(65)));
    }
}
