//! Content by its sha256, in files: `blobs/ab/abcdef…`.
//!
//! A blob is written to `blobs/partial/` and synced, which seals it, and when it is to stay renamed to
//! its place and the folders synced, so that a file in its place is whole. What a crash leaves in
//! `blobs/partial/` goes at the next opening, but for [uploads](crate::uploads), which are gone on with.

use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_tensor::Digest;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File};
use sha2::{Digest as _, Sha256};

use crate::error::StoreError;
use crate::uploads::{Key, Part, Uploads};

pub(crate) const PARTIAL: &str = "partial";

/// The folder of blobs.
pub(crate) struct Blobs {
    pub(crate) folder: Dir,
    pub(crate) path: PathBuf,
    pub(crate) uploads: Uploads,
    next_partial: AtomicU64,
}

impl Blobs {
    /// Opens the folder at `path`, or makes it, and removes what a crash left unfinished. The
    /// folder above must be locked.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path.join(PARTIAL)).map_err(|error| file("make", &path, error))?;
        let folder = Dir::open_ambient_dir(&path, ambient_authority())
            .map_err(|error| file("open", &path, error))?;
        let uploads = Uploads::default();
        let remove_partial = || {
            for entry in folder.read_dir(PARTIAL)? {
                let entry = entry?;
                let (name, metadata) = (entry.file_name(), entry.metadata()?);
                let partial = Path::new(PARTIAL).join(&name);
                match name.to_str().and_then(Key::of_file) {
                    Some(key) if metadata.is_file() => {
                        uploads.found(key, metadata.len(), metadata.modified()?.into_std());
                    }
                    _ if metadata.is_dir() => folder.remove_dir_all(partial)?,
                    _ => folder.remove_file(partial)?,
                }
            }
            io::Result::Ok(())
        };
        remove_partial().map_err(|error| file("clear", &path.join(PARTIAL), error))?;
        let blobs = Self { folder, path, uploads, next_partial: AtomicU64::new(0) };
        blobs.uploads.expire(&blobs);
        Ok(blobs)
    }

    /// A name in `partial/` that nothing else has.
    fn new_partial(&self) -> PathBuf {
        Path::new(PARTIAL).join(self.next_partial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Starts a blob of at most `limit` bytes.
    pub(crate) fn writer(self: &Arc<Self>, limit: u64) -> Result<BlobWriter, StoreError> {
        let partial = self.new_partial();
        let file = self
            .folder
            .create(&partial)
            .map_err(|error| file("make", &self.path.join(&partial), error))?;
        let partial = Partial { blobs: Arc::clone(self), name: partial, in_place: false };
        Ok(BlobWriter { partial, file, hash: Sha256::new(), size: 0, limit })
    }

    /// A folder in which the blobs lie under the names given, in folders of their own where a name has
    /// them; no byte is copied.
    pub(crate) fn lay_out<'a>(
        self: &Arc<Self>,
        files: impl IntoIterator<Item = (&'a str, &'a SealedBlob)>,
    ) -> Result<LaidOut, StoreError> {
        let laid_out = LaidOut { blobs: Arc::clone(self), name: self.new_partial() };
        let failed = |error| file("lay out", &laid_out.path(), error);
        self.folder.create_dir(&laid_out.name).map_err(failed)?;
        // What links are made in, so that no name leads out of it.
        let within = self.folder.open_dir(&laid_out.name).map_err(failed)?;
        for (name, blob) in files {
            let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
            let linked = parent
                .map_or(Ok(()), |parent| within.create_dir_all(parent))
                .and_then(|()| self.folder.hard_link(blob.name(), &within, name));
            linked.map_err(|error| file("link", &laid_out.path().join(name), error))?;
        }
        Ok(laid_out)
    }

    /// The blob in its place, once its content was found to be what its name says.
    pub(crate) fn whole(self: &Arc<Self>, digest: &Digest) -> Result<SealedBlob, StoreError> {
        let size = self.verify(digest)?;
        Ok(SealedBlob { lies: Lies::InPlace(Arc::clone(self)), digest: *digest, size })
    }

    /// Where the blob lies, or would lie.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.path.join(place(digest))
    }

    pub(crate) fn exists(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.folder
            .try_exists(place(digest))
            .map_err(|error| file("read", &self.path(digest), error))
    }

    /// The blob, once its content was found to be what its name says.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        self.open_blob(digest)?
            .read_to_end(&mut content)
            .map_err(|error| file("read", &self.path(digest), error))?;
        self.check(digest, Digest::of(&content))?;
        Ok(content)
    }

    /// Reads the blob through in small pieces, compares it with its name and answers its size.
    pub(crate) fn verify(&self, digest: &Digest) -> Result<u64, StoreError> {
        let mut blob = self.open_blob(digest)?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut blob, &mut hash);
        let size = size.map_err(|error| file("read", &self.path(digest), error))?;
        self.check(digest, Digest::from_bytes(hash.finalize().into()))?;
        Ok(size)
    }

    fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.folder.open(place(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                StoreError::Missing { digest: *digest, path: self.path(digest) }
            }
            _ => file("open", &self.path(digest), error),
        })
    }

    fn check(&self, digest: &Digest, actual: Digest) -> Result<(), StoreError> {
        if actual == *digest {
            return Ok(());
        }
        Err(StoreError::Corrupt { digest: *digest, path: self.path(digest), actual })
    }

    /// Moves a synced file to its place, over a file that is already there: its content is the
    /// same, or it was altered on the disk and is repaired.
    pub(crate) fn put_in_place(&self, partial: &Path, digest: &Digest) -> Result<(), StoreError> {
        let place = place(digest);
        let parent = place.parent().unwrap_or(Path::new("."));
        let moved = || {
            self.folder.create_dir_all(parent)?;
            self.folder.rename(partial, &self.folder, &place)?;
            self.folder.open(parent)?.sync_all()?;
            self.folder.open(".")?.sync_all()
        };
        moved().map_err(|error| file("write", &self.path(digest), error))
    }
}

/// A file in `partial/`, which goes with this unless it was moved to its place.
struct Partial {
    blobs: Arc<Blobs>,
    name: PathBuf,
    in_place: bool,
}

impl Partial {
    fn path(&self) -> PathBuf {
        self.blobs.path.join(&self.name)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.in_place {
            // What cannot be removed now goes at the next opening.
            let _ = self.blobs.folder.remove_file(&self.name);
        }
    }
}

/// A blob being written. Dropped before it is sealed, it leaves nothing.
pub struct BlobWriter {
    partial: Partial,
    file: File,
    hash: Sha256,
    size: u64,
    limit: u64,
}

impl BlobWriter {
    /// Appends a piece of any length.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        if piece.len() as u64 > self.limit - self.size {
            return Err(StoreError::TooLarge { what: "the content".into(), limit: self.limit });
        }
        self.file.write_all(piece).map_err(|error| file("write", &self.partial.path(), error))?;
        self.hash.update(piece);
        self.size += piece.len() as u64;
        Ok(())
    }

    /// Ends the blob: from here on it is whole and on the disk, but not in its place. A content other
    /// than `expected` is refused.
    pub fn seal(self, expected: Option<Digest>) -> Result<SealedBlob, StoreError> {
        let Self { partial, file: written, hash, size, .. } = self;
        let digest = Digest::from_bytes(hash.finalize().into());
        if let Some(expected) = expected.filter(|&expected| expected != digest) {
            return Err(StoreError::Mismatch { expected, actual: digest });
        }
        written.sync_all().map_err(|error| file("write", &partial.path(), error))?;
        Ok(SealedBlob { lies: Lies::Partial(partial), digest, size })
    }
}

/// A whole blob. Nothing can refer to one that is not in its place yet: dropped before it is placed, it
/// leaves nothing, whoever else has written the same content, or an upload as it was.
pub struct SealedBlob {
    lies: Lies,
    digest: Digest,
    size: u64,
}

/// Where a whole blob lies.
enum Lies {
    Partial(Partial),
    Upload(Arc<Blobs>, Arc<Part>),
    InPlace(Arc<Blobs>),
}

impl SealedBlob {
    pub(crate) fn of_upload(blobs: Arc<Blobs>, part: Arc<Part>, digest: Digest, size: u64) -> Self {
        Self { lies: Lies::Upload(blobs, part), digest, size }
    }

    /// The content's sha256.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The content's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blob's file until it is placed, for those who must have a path.
    pub fn path(&self) -> PathBuf {
        self.blobs().path.join(self.name())
    }

    /// The whole content, compared with its digest.
    pub fn read(&self) -> Result<Vec<u8>, StoreError> {
        let content = self.blobs().folder.read(self.name());
        let content = content.map_err(|error| file("read", &self.path(), error))?;
        self.blobs().check(&self.digest, Digest::of(&content))?;
        Ok(content)
    }

    /// Puts the blob in its place, on the disk. One that exists already may be placed again.
    pub fn place(mut self) -> Result<(), StoreError> {
        match &mut self.lies {
            Lies::Partial(partial) => {
                partial.blobs.put_in_place(&partial.name, &self.digest)?;
                partial.in_place = true;
            }
            Lies::Upload(blobs, part) => part.place(blobs)?,
            Lies::InPlace(_) => {}
        }
        Ok(())
    }

    /// Leaves nothing of it but what is in its place.
    pub fn discard(&self) {
        if let Lies::Upload(blobs, part) = &self.lies {
            part.remove(blobs);
        }
    }

    fn blobs(&self) -> &Blobs {
        match &self.lies {
            Lies::Partial(partial) => &partial.blobs,
            Lies::Upload(blobs, _) | Lies::InPlace(blobs) => blobs,
        }
    }

    /// Its file in the folder of blobs.
    fn name(&self) -> PathBuf {
        match &self.lies {
            Lies::Partial(partial) => partial.name.clone(),
            Lies::Upload(_, part) => part.name(),
            Lies::InPlace(_) => place(&self.digest),
        }
    }
}

/// A folder of names for blobs, gone when this is dropped.
pub struct LaidOut {
    blobs: Arc<Blobs>,
    name: PathBuf,
}

impl LaidOut {
    /// The folder, as an absolute path.
    pub fn path(&self) -> PathBuf {
        self.blobs.path.join(&self.name)
    }
}

impl Drop for LaidOut {
    fn drop(&mut self) {
        // What cannot be removed now goes at the next opening.
        let _ = self.blobs.folder.remove_dir_all(&self.name);
    }
}

fn place(digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    Path::new(&name[..2]).join(&name)
}

pub(crate) fn file(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::File { action, path: path.to_owned(), error }
}
