//! The held-out pictures of examples/digits, and what the endpoint says of them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::http::Request;
use crate::workspace::root;

/// Where pictures are posted.
pub(crate) const PATH: &str = "/v2/models/digits/invoke";

/// The folder of the example.
pub(crate) fn example() -> PathBuf {
    root().join("examples").join("digits")
}

/// One held-out picture.
#[derive(Clone)]
pub(crate) struct Picture {
    /// `NUMBER-LABEL.png`
    pub(crate) name: String,
    /// The digit that it shows.
    pub(crate) label: u8,
    /// The request that posts it.
    pub(crate) request: Request,
}

/// Every held-out picture, in the order of their numbers.
pub(crate) fn read() -> Result<Vec<Picture>> {
    let folder = example().join("held-out");
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(&folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?
    {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(label) =
            name.strip_suffix(".png").and_then(|stem| stem.split_once('-')?.1.parse().ok())
        else {
            bail!("{} is not named NUMBER-LABEL.png", path.display());
        };
        pictures.push(Picture {
            name,
            label,
            request: Request::post(PATH, "image/png", &std::fs::read(&path)?),
        });
    }
    pictures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pictures)
}

/// The requests that post the pictures.
pub(crate) fn requests(pictures: &[Picture]) -> Vec<Request> {
    pictures.iter().map(|picture| picture.request.clone()).collect()
}

/// The most probable digit in the image classifier's answer.
pub(crate) fn digit(body: &[u8]) -> Result<u8> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    let label = &answer["predictions"][0]["label"];
    let digit = label.as_str().and_then(|text| text.parse().ok());
    digit.with_context(|| format!("no digit in the answer {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_is_among_the_pictures() {
        let labels: std::collections::BTreeSet<_> =
            read().unwrap().iter().map(|picture| picture.label).collect();
        assert_eq!(labels, (0..10).collect());
    }
}
