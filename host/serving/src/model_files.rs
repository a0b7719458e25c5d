//! A model's files in the store: looked for, laid out beside each other, opened, placed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use berth_inference::{ModelOptions, OpenError, Opened, data_files};
use berth_store::{SealedBlob, Store, StoreError};
use berth_tensor::Digest;

use crate::documents::ModelFiles;
use crate::error::ControlError;
use crate::prepare::Workshop;

/// What a model's own file is called beside its data files.
const MODEL: &str = "model.onnx";

/// The files of a model, each whole and compared with its digest.
pub(crate) struct ModelBlobs {
    model: SealedBlob,
    data: BTreeMap<String, SealedBlob>,
    /// Whether they are still being pushed, so that whoever pushes them knows them by other names.
    pushed: bool,
}

impl From<SealedBlob> for ModelBlobs {
    /// A model of one file.
    fn from(model: SealedBlob) -> Self {
        Self { model, data: BTreeMap::new(), pushed: true }
    }
}

impl ModelBlobs {
    /// The files of the version `name`, in their places.
    pub(crate) fn stored(
        store: &Store,
        name: &str,
        files: &ModelFiles,
    ) -> Result<Self, ControlError> {
        let data = files.data.iter().map(|(file, digest)| match store.blob(digest) {
            Ok(blob) => Ok((file.clone(), blob)),
            Err(source) => Err(ControlError::DataFile {
                model: name.to_owned(),
                file: file.clone(),
                source: Box::new(source),
            }),
        });
        let data = data.collect::<Result<_, _>>()?;
        Ok(Self { data, model: store.blob(&files.model)?, pushed: false })
    }

    /// The files of a model that is being pushed: uploaded, or in the store already. Blocks.
    pub(crate) fn uploaded(store: &Store, files: &ModelFiles) -> Result<Self, ControlError> {
        for name in files.data.keys() {
            if data_files::plain_name(name).as_ref() != Some(name)
                || name.split('/').next() == Some(MODEL)
            {
                return Err(ControlError::Invalid(format!(
                    "{name:?} is no name of a data file: it is relative, without `..`, and not {MODEL}"
                )));
            }
        }
        let mut missing = BTreeMap::new();
        let mut find = |digest: &Digest| {
            if let Some(blob) = store.whole_upload(digest) {
                return Ok(Some(blob));
            }
            match store.blob(digest) {
                Ok(blob) => Ok(Some(blob)),
                // One that was altered is repaired by what is uploaded.
                Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {
                    missing.insert(*digest, store.uploaded(digest));
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        };
        let model = find(&files.model)?;
        let data = files.data.iter().map(|(name, digest)| Ok((name.clone(), find(digest)?)));
        let data = data.collect::<Result<BTreeMap<_, _>, StoreError>>()?;
        let data: BTreeMap<_, _> =
            data.into_iter().filter_map(|(name, blob)| Some((name, blob?))).collect();
        match model {
            Some(model) if missing.is_empty() => Ok(Self { model, data, pushed: true }),
            _ => Err(ControlError::NotUploaded(missing)),
        }
    }

    pub(crate) fn files(&self) -> ModelFiles {
        let data = self.data.iter().map(|(name, blob)| (name.clone(), blob.digest()));
        ModelFiles { model: self.model.digest(), data: data.collect() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.data.values().map(SealedBlob::size).sum::<u64>() + self.model.size()
    }

    /// Opens the model, which is tried first, unless that was done. ONNX Runtime looks for the data files by
    /// their names beside the model's own, and only while it opens it: those that it maps stay mapped.
    pub(crate) fn open(
        &self,
        workshop: &Workshop,
        name: &str,
        options: &ModelOptions,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<Opened>, ControlError> {
        let Workshop { store, runtime, .. } = workshop;
        let open = |file: &Path| {
            let opened = runtime.open_tried(name, &self.files().digest(), file, options, wanted);
            let known_as =
                |error: OpenError| if self.pushed { error.of("the file") } else { error };
            opened.map_err(|error| match known_as(error) {
                error @ (OpenError::Memory { .. }
                | OpenError::Threads { .. }
                | OpenError::Replaced { .. }
                | OpenError::Unwanted { .. }) => ControlError::Host(error.to_string()),
                error => Box::new(error).into(),
            })
        };
        if self.data.is_empty() {
            return open(&self.model.path());
        }
        let data = self.data.iter().map(|(name, blob)| (name.as_str(), blob));
        let folder = store.lay_out(data.chain([(MODEL, &self.model)]))?;
        open(&folder.path().join(MODEL))
    }

    /// Leaves nothing of what was uploaded for it.
    pub(crate) fn discard(&self) {
        self.data.values().chain([&self.model]).for_each(SealedBlob::discard);
    }

    /// Puts every file in its place.
    pub(crate) fn place(self) -> Result<(), StoreError> {
        self.data.into_values().chain([self.model]).try_for_each(SealedBlob::place)
    }
}
