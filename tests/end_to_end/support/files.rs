//! Where the files under test are, and endpoint files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What `cargo xtask test` says, such as where the binary is.
pub(crate) fn told(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(value) => value.into(),
        None => panic!("{variable} is not set: run cargo xtask test"),
    }
}

/// A first-party plugin.
pub(crate) fn plugin(name: &str) -> PathBuf {
    told("BERTH_PLUGINS").join(format!("{name}.wasm"))
}

/// A plugin that misbehaves, from `tests/guests/`.
pub(crate) fn guest(name: &str) -> PathBuf {
    told("BERTH_GUESTS").join(format!("{name}.wasm"))
}

/// The folder of the example.
pub(crate) fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits")
}

/// A picture that neither version of the example's model was trained on.
pub(crate) struct Picture {
    pub(crate) label: u8,
    pub(crate) png: Vec<u8>,
}

/// All of them, in the order of their files.
pub(crate) fn pictures() -> Vec<Picture> {
    let mut files: Vec<PathBuf> = fs::read_dir(digits().join("held-out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let picture = |file: &PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let label = name.rsplit_once('-').unwrap().1.parse().unwrap();
        Picture { label, png: fs::read(file).unwrap() }
    };
    files.iter().map(picture).collect()
}

/// The first picture of an 8, which version 1 of the model takes for something else.
pub(crate) fn an_eight() -> Vec<u8> {
    pictures().into_iter().find(|picture| picture.label == 8).unwrap().png
}

/// How the image classifier is set up for the example's models.
pub(crate) const DIGITS_CONFIG: &str = "{ width = 8, height = 8, channels = \"grey\", scale = 0.06274509803921569, shape = [1, 64], top = 3 }";

/// The endpoint `digits` on a version of the model.
pub(crate) fn digits_endpoint(version: u32) -> String {
    classifier("digits", &format!("digits@{version}"), "")
}

/// An endpoint of the image classifier with further lines for its variant.
pub(crate) fn classifier(name: &str, model: &str, rest: &str) -> String {
    format!(
        "name = {name:?}\n[[variants]]\nname = \"main\"\nprocessor = \"image-classifier@1\"\nmodels = {{ default = {model:?} }}\nconfig = {DIGITS_CONFIG}\n{rest}\n"
    )
}

/// An endpoint that gives tensors straight to a model.
pub(crate) fn tensors(name: &str, model: &str) -> String {
    format!("name = {name:?}\n{}", bare("main", model))
}

/// A variant that gives tensors straight to a model.
pub(crate) fn bare(name: &str, model: &str) -> String {
    format!("[[variants]]\nname = {name:?}\nmodels = {{ default = {model:?} }}\n")
}

/// A variant with a processor.
pub(crate) fn variant(name: &str, processor: &str, models: &str, config: &str) -> String {
    format!(
        "[[variants]]\nname = {name:?}\nprocessor = {processor:?}\nmodels = {{ {models} }}\nconfig = {{ {config} }}\n"
    )
}

/// The component with one more custom section: another content that does the same.
pub(crate) fn another_build(file: &Path, mark: u32) -> Vec<u8> {
    let mut component = fs::read(file).unwrap();
    component.extend_from_slice(&[0, 9, 4]);
    component.extend_from_slice(b"mark");
    component.extend_from_slice(&mark.to_le_bytes());
    component
}
