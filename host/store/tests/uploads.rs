//! Uploads through the store's own door: gaps, overlaps, reopening, bounds, what is laid out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use berth_store::{Store, StoreError};
use berth_tensor::Digest;
use tempfile::TempDir;

fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// One go: from an offset on, of so many bytes in all, and what is there then.
fn go(
    store: &Store,
    digest: Digest,
    offset: u64,
    bytes: u64,
    sent: &[u8],
) -> Result<u64, StoreError> {
    let mut upload = store.upload(digest, offset, bytes)?;
    for piece in sent.chunks(3) {
        upload.write(piece)?;
    }
    upload.finish()
}

/// The files in `blobs/partial/`.
fn partial(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder.join("blobs/partial")).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const CONTENT: &[u8] = b"what is uploaded in several goes";

#[test]
fn goes_add_up_whatever_they_overlap() {
    let whole = CONTENT.len() as u64;
    for (name, goes) in [
        ("one", &[(0, 32)][..]),
        ("two", &[(0, 10), (10, 32)]),
        ("over each other", &[(0, 10), (5, 20), (0, 32)]),
        ("again", &[(0, 32), (0, 32), (32, 32), (7, 9)]),
        ("nothing, then all", &[(0, 0), (0, 32)]),
    ] {
        for reopened in [false, true] {
            let (folder, mut store) = open();
            let digest = Digest::of(CONTENT);
            let mut held = 0;
            for &(from, to) in goes {
                if reopened {
                    drop(store);
                    store = Store::open(folder.path()).unwrap();
                    assert_eq!(store.uploaded(&digest), held, "{name}");
                }
                held =
                    go(&store, digest, from as u64, whole, &CONTENT[from..to]).unwrap().max(held);
                assert_eq!(store.uploaded(&digest), held, "{name}");
            }
            // Opened anew, the store does not know that it is whole before it is asked to go on.
            go(&store, digest, whole, whole, b"").unwrap();
            assert_eq!(partial(folder.path()), [format!("{digest}-{whole}")], "{name}");
            let blob = store.whole_upload(&digest).unwrap();
            assert_eq!((blob.digest(), blob.size()), (digest, whole), "{name}");
            blob.place().unwrap();
            assert_eq!(store.blob_read(&digest).unwrap(), CONTENT, "{name}");
            assert_eq!((partial(folder.path()).len(), store.uploaded(&digest)), (0, 0), "{name}");
        }
    }
}

#[test]
fn several_may_send_the_same_at_once() {
    let (folder, store) = open();
    let (digest, whole) = (Digest::of(CONTENT), CONTENT.len() as u64);
    let mut slow = store.upload(digest, 0, whole).unwrap();
    slow.write(&CONTENT[..4]).unwrap();
    let mut fast = store.upload(digest, 4, whole).unwrap();
    fast.write(&CONTENT[4..20]).unwrap();
    slow.write(&CONTENT[4..24]).unwrap();
    fast.write(&CONTENT[20..]).unwrap();
    assert_eq!(fast.finish().unwrap(), whole);
    let [first, second] = [0, 1].map(|_| store.whole_upload(&digest).unwrap());
    first.place().unwrap();
    slow.write(&CONTENT[24..]).unwrap();
    assert_eq!(slow.finish().unwrap(), whole);
    second.place().unwrap();
    assert_eq!(store.blob_read(&digest).unwrap(), CONTENT);
    assert_eq!(partial(folder.path()).len(), 0);

    // One whose upload was refused meanwhile is told.
    let mut late = store.upload(digest, 0, whole).unwrap();
    go(&store, digest, 0, whole, CONTENT).unwrap();
    store.whole_upload(&digest).unwrap().discard();
    let told = late.write(b"what").unwrap_err();
    assert!(matches!(told, StoreError::Gone { .. }), "{told}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (folder, store) = open();
    let (digest, whole) = (Digest::of(CONTENT), CONTENT.len() as u64);
    go(&store, digest, 0, whole, &CONTENT[..10]).unwrap();
    for (name, offset, bytes, sent, part) in [
        ("a gap", 11, whole, &b"x"[..], "10 bytes of"),
        ("beyond the end", 33, whole, b"", "33 is beyond them: go on from 10"),
        ("more than there is room for", 0, (64 << 30) + 1, b"", "over the limit of 68719476736"),
    ] {
        let error = go(&store, digest, offset, bytes, sent).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
        assert_eq!(store.uploaded(&digest), 10, "{name}");
    }
    // Another content than announced: gone, and good for a new beginning.
    let error = go(&store, digest, 10, whole, &[b'x'; 22]).unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    assert_eq!((partial(folder.path()).len(), store.uploaded(&digest)), (0, 0));
    go(&store, digest, 0, whole, &CONTENT[..10]).unwrap();
    // So is what was altered on the disk between two goes.
    drop(store);
    let file = folder.path().join("blobs/partial").join(format!("{digest}-{whole}"));
    fs::write(&file, "something ").unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = go(&store, digest, 10, whole, &CONTENT[10..]).unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
    assert!(!file.exists());
}

#[test]
fn who_is_wrong_about_the_size_takes_nothing_from_who_is_right() {
    let (digest, whole) = (Digest::of(CONTENT), CONTENT.len() as u64);
    for reopened in [false, true] {
        for (name, offset, bytes, sent, part) in [
            ("its beginning", 0, 10, &CONTENT[..10], "not as announced"),
            ("what is there and no more", 10, 10, b"", "go on from 0"),
            ("more than announced", 0, 2, b"xxx", "over the limit of 2 bytes"),
            ("more than there is", 0, 33, &[CONTENT, b"x"].concat(), "not as announced"),
        ] {
            let (folder, mut store) = open();
            go(&store, digest, 0, whole, &CONTENT[..10]).unwrap();
            if reopened {
                drop(store);
                store = Store::open(folder.path()).unwrap();
            }
            let error = go(&store, digest, offset, bytes, sent).unwrap_err().to_string();
            let error = error.replace(&format!("{digest} "), "");
            assert!(error.contains(part), "{name}: {error}");
            assert_eq!(store.uploaded(&digest), 10, "{name}");
            assert!(store.whole_upload(&digest).is_none(), "{name}");
            go(&store, digest, 10, whole, &CONTENT[10..]).unwrap();
            store.whole_upload(&digest).unwrap().place().unwrap();
            assert_eq!(store.blob_read(&digest).unwrap(), CONTENT, "{name}");
        }
    }
}

#[test]
fn uploads_are_bounded_in_age_number_and_size() {
    let (folder, store) = open();
    let digest = |number: u32| Digest::of(&number.to_le_bytes());
    for number in 0..1024 {
        go(&store, digest(number), 0, 2, b"x").unwrap();
    }
    let full = |store: &Store, bytes| go(store, digest(9999), 0, bytes, b"x");
    assert!(matches!(full(&store, 2), Err(StoreError::Busy)), "all are in use");
    go(&store, digest(7), 1, 2, b"").unwrap();
    drop(store);
    let age = |number: u32, seconds| {
        let file = folder.path().join("blobs/partial").join(format!("{}-2", digest(number)));
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    age(5, 25 * 3600);
    [(1, 200), (2, 300), (3, 100)].into_iter().for_each(|(number, seconds)| age(number, seconds));
    let store = Store::open(folder.path()).unwrap();
    let held = |numbers: &[u32]| -> Vec<u64> {
        numbers.iter().map(|&number| store.uploaded(&digest(number))).collect()
    };
    assert_eq!(held(&[1, 2, 3, 4, 5]), [1, 1, 1, 1, 0], "a day is too old");
    go(&store, digest(2000), 0, 2, b"x").unwrap();
    assert_eq!(held(&[1, 2, 3, 4, 2000]), [1, 1, 1, 1, 1], "there was room for one");
    go(&store, digest(2001), 0, 2, b"x").unwrap();
    assert_eq!(held(&[1, 2, 3, 4, 2001]), [1, 0, 1, 1, 1], "the longest untouched went");
    // All that there may be together, at once.
    assert!(matches!(full(&store, 64 << 30), Err(StoreError::Busy)));
    assert_eq!(
        held(&[1, 2, 3, 4]),
        [0, 0, 0, 1],
        "what is idle went before the others are in the way"
    );
    store.expire_uploads();
    assert_eq!(partial(folder.path()).len(), 1022);
}

#[test]
fn blobs_are_laid_out_under_names() {
    let (folder, store) = open();
    let (digest, whole) = (Digest::of(CONTENT), CONTENT.len() as u64);
    go(&store, digest, 0, whole, CONTENT).unwrap();
    let uploaded = store.whole_upload(&digest).unwrap();
    let mut writer = store.blob_writer(10).unwrap();
    writer.write(b"placed").unwrap();
    let sealed = writer.seal(None).unwrap();
    let placed = sealed.digest();
    sealed.place().unwrap();
    let placed = store.blob(&placed).unwrap();
    let laid_out = store.lay_out([("a", &uploaded), ("b/c", &placed)]).unwrap();
    let check = || {
        assert_eq!(fs::read(laid_out.path().join("a")).unwrap(), CONTENT);
        assert_eq!(fs::read(laid_out.path().join("b/c")).unwrap(), b"placed");
    };
    check();
    uploaded.place().unwrap();
    check();
    // Nothing leads out of the folder of blobs, whatever a caller lets through.
    for name in ["../../out", "/out", "a/../../../out"] {
        assert!(store.lay_out([(name, &placed)]).is_err(), "{name}");
    }
    assert!(!folder.path().join("out").exists());
    let path = laid_out.path();
    drop(laid_out);
    assert!(!path.exists());
    // What a crash leaves goes with the next opening.
    std::mem::forget(store.lay_out([("a", &placed)]).unwrap());
    drop((placed, store));
    assert_eq!(partial(folder.path()).len(), 1);
}
