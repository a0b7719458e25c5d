//! `berth:plugin/assets`: read-only files that a variant grants.

use std::sync::Arc;

use berth_tensor::Digest;
use bytes::Bytes;
use wasmtime::component::{Linker, Resource};

use crate::bindings::processor::berth::plugin::assets::{Error, Host, HostAsset};
use crate::exchange::slice;
use crate::state::State;

/// A file's content and its digest. Shared by all revisions that grant it.
#[derive(Clone, Debug)]
pub struct Asset {
    /// The sha256 of the content.
    pub digest: Digest,
    /// The content.
    pub bytes: Bytes,
}

/// The assets of a variant by the names under which the plugin knows them.
pub type Assets = Vec<(String, Arc<Asset>)>;

/// An asset as the guest holds it.
pub struct OpenAsset(Arc<Asset>);

impl Host for State {
    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.bindings.assets.iter().map(|(name, _)| name.clone()).collect())
    }
}

impl HostAsset for State {
    fn open(&mut self, name: String) -> wasmtime::Result<Result<Resource<OpenAsset>, Error>> {
        let asset = self.bindings.assets.iter().find(|(known, _)| *known == name);
        Ok(match asset.map(|(_, asset)| Arc::clone(asset)) {
            Some(asset) => Ok(self.table.push(OpenAsset(asset))?),
            None => Err(Error::Denied(format!(
                "the variant grants no asset {name:?}: add it under `assets` in the endpoint file"
            ))),
        })
    }

    fn size(&mut self, asset: Resource<OpenAsset>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&asset)?.0.bytes.len() as u64)
    }

    fn digest(&mut self, asset: Resource<OpenAsset>) -> wasmtime::Result<String> {
        Ok(self.table.get(&asset)?.0.digest.to_string())
    }

    fn read(
        &mut self,
        asset: Resource<OpenAsset>,
        offset: u64,
        length: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, Error>> {
        Ok(Ok(slice(&self.table.get(&asset)?.0.bytes, offset, length).into()))
    }

    fn drop(&mut self, asset: Resource<OpenAsset>) -> wasmtime::Result<()> {
        self.table.delete(asset)?;
        Ok(())
    }
}

/// Replaces the call that hands out content by one that copies it once, straight into the guest.
pub(crate) fn add_copies_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance("berth:plugin/assets@0.1.0")?.func_wrap(
        "[method]asset.read",
        |mut store, (asset, offset, length): (Resource<OpenAsset>, u64, u64)| {
            let asset = store.data_mut().called().table.get(&asset)?;
            Ok((Ok::<_, Error>(slice(&asset.0.bytes, offset, length)),))
        },
    )
}
