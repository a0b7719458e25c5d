//! What a component says of itself. An input that does not begin as WebAssembly does is taken for
//! the manifest of a component that is good otherwise.

#![no_main]

use berth_plugin::inspect::{ABI, inspect};
use berth_plugin::{Inspection, Kind, LoadError, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"\0asm") {
        if let Ok(inspection) = inspect(data) {
            kept(&inspection);
        }
        return;
    }
    let read = serde_json::from_slice::<Manifest>(data);
    match (inspect(&component(data)), read) {
        (Ok(inspection), Ok(manifest)) => {
            assert!(manifest.abi.is_empty() || manifest.abi == ABI);
            assert_eq!((inspection.kind, inspection.routes), (Kind::Processor, false));
            assert_eq!(inspection.manifest, manifest);
            kept(&inspection);
        }
        (Err(LoadError::Abi { found }), Ok(manifest)) => {
            assert!(found == manifest.abi && found != ABI);
        }
        (Err(LoadError::Manifest(_)), Err(_)) => {}
        (inspected, read) => panic!("{inspected:?}, while the manifest alone is {read:?}"),
    }
});

/// The store keeps it as JSON.
fn kept(inspection: &Inspection) {
    let json = serde_json::to_value(inspection).expect("it can be written");
    assert_eq!(&serde_json::from_value::<Inspection>(json).expect("it can be read"), inspection);
}

/// A processor of one empty module with this manifest.
fn component(manifest: &[u8]) -> Vec<u8> {
    const CUSTOM: u8 = 0;
    const CORE_MODULE: u8 = 1;
    const EXPORTS: u8 = 11;
    let custom = [&bytes(b"berth:manifest"), manifest].concat();
    let module = [b"\0asm\x01\0\0\0", &*section(CUSTOM, &custom)].concat();
    // One export: a name, the instance 0, no type.
    let name = bytes(b"berth:plugin/processing@0.1.0");
    let exports = [&[1, 0], &*name, &[5, 0, 0]].concat();
    [b"\0asm\x0d\0\x01\0", &*section(CORE_MODULE, &module), &*section(EXPORTS, &exports)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &*bytes(content)].concat()
}

/// A length and what it is the length of.
fn bytes(content: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut length = content.len();
    while length > 0x7f {
        all.push(length as u8 | 0x80);
        length >>= 7;
    }
    all.push(length as u8);
    all.extend_from_slice(content);
    all
}
