//! Files that the variant grants.

use crate::Error;
use crate::bindings::processor::berth::plugin::assets;

/// A read-only file that the variant grants, fixed by digest.
#[derive(Debug)]
pub struct Asset(assets::Asset);

impl Asset {
    /// The names of the granted assets.
    pub fn names() -> Vec<String> {
        assets::names()
    }

    /// Opens an asset. Fails when the variant does not grant it.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(assets::Asset::open(name)?))
    }

    /// The whole content of an asset.
    pub fn read(name: &str) -> Result<Vec<u8>, Error> {
        let asset = Self::open(name)?;
        let size = asset.size();
        asset.read_at(0, size)
    }

    /// The whole content of an asset that is a text in UTF-8.
    pub fn read_to_string(name: &str) -> Result<String, Error> {
        String::from_utf8(Self::read(name)?)
            .map_err(|_| Error::plugin(format!("asset `{name}` is no text in UTF-8")))
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// The sha256 of the content, in hexadecimal.
    pub fn digest(&self) -> String {
        self.0.digest()
    }

    /// Up to `length` bytes from `offset`; fewer at the end.
    pub fn read_at(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        Ok(self.0.read(offset, length)?)
    }
}
