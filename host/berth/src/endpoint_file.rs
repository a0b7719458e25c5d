//! Endpoint files and the assets that they name.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use berth_serving::EndpointSpec;

use crate::client::Client;

/// Reads an endpoint file and uploads its assets, whose paths become digests.
pub(crate) fn read(file: &Path, client: &Client) -> anyhow::Result<EndpointSpec> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut spec = parse(&text).with_context(|| file.display().to_string())?;
    spec.check().with_context(|| file.display().to_string())?;
    let folder = file.parent().unwrap_or(Path::new("."));
    for variant in &mut spec.variants {
        for (name, asset) in &mut variant.assets {
            if asset.starts_with("sha256:") {
                continue;
            }
            let path = folder.join(&*asset);
            let uploaded = client
                .upload("/v1/assets", &[], &path)
                .with_context(|| format!("variants.{}.assets.{name}", variant.name))?;
            let digest =
                uploaded["digest"].as_str().ok_or_else(|| anyhow!("the host gave no digest"))?;
            *asset = format!("sha256:{digest}");
        }
    }
    Ok(spec)
}

fn parse(text: &str) -> anyhow::Result<EndpointSpec> {
    // The parser's message shows the line, with its key, over several lines.
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let key = error
            .span()
            .and_then(|span| text.get(span))
            .filter(|key| (2..64).contains(&key.len()) && !key.contains('\n'));
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        let at = key.map_or_else(String::new, |key| format!(" (at {key})"));
        anyhow!("{place}{}{at}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_does_not_fit_is_named_with_its_line() {
        for (text, parts) in [
            ("name = \"d\"\ncolour = 1\n", &["line 2", "colour"][..]),
            ("name = \"d\"\n[[variants]]\nname = \"m\"\nmodles = {}\n", &["line 4", "modles"]),
            ("name = \"D\"\nvariants = []\n", &["line 1", "\"D\" is no name"]),
            ("name = \n", &["line 1"]),
            ("variants = []\n", &["missing field `name`"]),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!message.contains('\n'));
        }
    }
}
