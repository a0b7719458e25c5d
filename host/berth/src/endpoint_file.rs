//! Endpoint files and the assets that they name.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use berth_serving::EndpointSpec;
use berth_serving::warm_up::WarmUp;

use crate::client::Client;
use crate::spec_text;

/// Reads an endpoint file and uploads its assets, whose paths become digests.
pub(crate) fn read(file: &Path, client: &Client) -> anyhow::Result<EndpointSpec> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut spec = spec_text::parse(&text).with_context(|| file.display().to_string())?;
    spec.check().with_context(|| file.display().to_string())?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let upload = |key: &str, asset: &mut String| {
        if asset.starts_with("sha256:") {
            return Ok(());
        }
        let uploaded = client.upload("/v1/assets", &[], &folder.join(&*asset));
        let uploaded = uploaded.with_context(|| key.to_owned())?;
        let digest =
            uploaded["digest"].as_str().ok_or_else(|| anyhow!("the host gave no digest"))?;
        *asset = format!("sha256:{digest}");
        anyhow::Ok(())
    };
    for variant in &mut spec.variants {
        for (name, asset) in &mut variant.assets {
            upload(&format!("variants.{}.assets.{name}", variant.name), asset)?;
        }
    }
    if let Some((key, file)) = spec.warm_up.as_mut().and_then(WarmUp::file) {
        upload(key, file)?;
    }
    Ok(spec)
}
