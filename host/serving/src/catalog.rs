//! Models and plugins: their versions, and what references stand for.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_store::{Change, Note, Store};
use berth_tensor::{Digest, Name, Reference, Selector};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::documents::{MODEL, ModelFiles, ModelVersion, PLUGIN, Pinned, PluginVersion, key};
use crate::error::ControlError;

const ALIAS: &str = "alias";

/// What has numbered versions.
pub trait Versioned: DeserializeOwned + serde::Serialize + Clone {
    /// The store's kind of document.
    const KIND: &str;
    /// The name.
    fn name(&self) -> &Name;
    /// The version.
    fn version(&self) -> u64;
    /// The digest of the content.
    fn digest(&self) -> Digest;
    /// The same under another number.
    fn numbered(self, version: u64) -> Self;
}

impl Versioned for ModelVersion {
    const KIND: &str = MODEL;
    fn name(&self) -> &Name {
        &self.name
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn digest(&self) -> Digest {
        self.digest
    }
    fn numbered(self, version: u64) -> Self {
        Self { version, ..self }
    }
}

impl Versioned for PluginVersion {
    const KIND: &str = PLUGIN;
    fn name(&self) -> &Name {
        &self.name
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn digest(&self) -> Digest {
        self.digest
    }
    fn numbered(self, version: u64) -> Self {
        Self { version, ..self }
    }
}

/// Every version of a kind, by name and number.
pub fn list<T: Versioned>(store: &Store) -> Result<Vec<T>, ControlError> {
    begun(store, "")
}

fn begun<T: Versioned>(store: &Store, prefix: &str) -> Result<Vec<T>, ControlError> {
    store
        .list(T::KIND, prefix)?
        .into_iter()
        .map(|(key, document)| read(T::KIND, &key, document.document))
        .collect()
}

/// The versions of one name, by number; an error when there is none.
pub fn versions<T: Versioned>(store: &Store, name: &Name) -> Result<Vec<T>, ControlError> {
    let versions = known::<T>(store, name)?;
    if versions.is_empty() {
        return Err(ControlError::NotFound(format!("there is no {} {name}", T::KIND)));
    }
    Ok(versions)
}

fn known<T: Versioned>(store: &Store, name: &Name) -> Result<Vec<T>, ControlError> {
    begun(store, &format!("{name}@"))
}

/// Adds a version, numbered after the last. A content that the name already has keeps its number.
pub fn push<T: Versioned>(store: &Store, version: T, note: &Note) -> Result<T, ControlError> {
    loop {
        let sequence = store.sequence();
        let known = known::<T>(store, version.name())?;
        if let Some(same) = known.iter().find(|other| other.digest() == version.digest()) {
            return Ok(same.clone());
        }
        let number = known.last().map_or(1, |last| last.version() + 1);
        let version = version.clone().numbered(number);
        let put = Change::put(T::KIND, key(version.name(), number), document(&version)?);
        match store.commit(Some(sequence), &[put], note) {
            Ok(_) => return Ok(version),
            Err(berth_store::StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Points an alias at a version of its name.
pub fn set_alias<T: Versioned>(
    store: &Store,
    name: &Name,
    alias: &Name,
    version: u64,
    note: &Note,
) -> Result<(), ControlError> {
    if alias.as_str().bytes().all(|c| c.is_ascii_digit()) {
        return Err(ControlError::Invalid(format!(
            "{alias} reads as a version; give the alias a letter"
        )));
    }
    resolve::<T>(store, &Reference { name: name.clone(), selector: Selector::Version(version) })?;
    let put = Change::put(ALIAS, alias_key::<T>(name, alias), json!({ "version": version }));
    store.commit(None, &[put], note)?;
    Ok(())
}

fn alias_key<T: Versioned>(name: &Name, alias: &Name) -> String {
    format!("{}/{name}@{alias}", T::KIND)
}

/// The files of a pinned model.
pub(crate) fn files(store: &Store, pinned: &Pinned) -> Result<ModelFiles, ControlError> {
    let key = key(&pinned.name, pinned.version);
    let found = store.get(MODEL, &key)?;
    let version: Option<ModelVersion> =
        found.map(|found| read(MODEL, &key, found.document)).transpose()?;
    let files = version.and_then(|version| version.files);
    Ok(files.unwrap_or_else(|| ModelFiles { model: pinned.digest, data: BTreeMap::new() }))
}

/// What a reference stands for now.
pub fn resolve<T: Versioned>(store: &Store, reference: &Reference) -> Result<T, ControlError> {
    let Reference { name, selector } = reference;
    let known = versions::<T>(store, name)?;
    let found = match selector {
        Selector::Version(number) => known.iter().find(|version| version.version() == *number),
        Selector::Digest(digest) => known.iter().find(|version| version.digest() == *digest),
        Selector::Alias(alias) => {
            let pointed = store.get(ALIAS, &alias_key::<T>(name, alias))?;
            let number =
                pointed.as_ref().and_then(|document| document.document["version"].as_u64());
            known.iter().find(|version| Some(version.version()) == number)
        }
    };
    found.cloned().ok_or_else(|| {
        let numbers: Vec<String> =
            known.iter().map(|version| version.version().to_string()).collect();
        ControlError::NotFound(format!(
            "there is no {} {reference}; {name} has version {}",
            T::KIND,
            numbers.join(", ")
        ))
    })
}

/// The version, pinned.
pub(crate) fn pin<T: Versioned>(version: &T) -> Pinned {
    Pinned { name: version.name().clone(), version: version.version(), digest: version.digest() }
}

pub(crate) fn document<T: serde::Serialize>(value: &T) -> Result<Value, ControlError> {
    serde_json::to_value(value).map_err(|error| ControlError::Host(error.to_string()))
}

pub(crate) fn read<T: DeserializeOwned>(
    kind: &str,
    key: &str,
    value: Value,
) -> Result<T, ControlError> {
    serde_json::from_value(value).map_err(|error| {
        ControlError::Host(format!("the store's {kind} {key} does not read: {error}"))
    })
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
