//! The store through its own door: commits, documents, blobs, reopening.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use berth_store::{Change, Note, Store, StoreError};
use berth_tensor::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn note(why: &str) -> Note {
    Note { who: "test".into(), why: why.into() }
}

fn documents(store: &Store, kind: &str) -> Vec<(String, u64, Value)> {
    let listed = store.list(kind, "").unwrap();
    listed.into_iter().map(|(key, it)| (key, it.sequence, it.document)).collect()
}

fn push(store: &Store, content: &[u8]) -> Digest {
    let mut writer = store.blob_writer(1 << 20).unwrap();
    content.chunks(3).for_each(|piece| writer.write(piece).unwrap());
    let blob = writer.seal(Some(Digest::of(content))).unwrap();
    assert_eq!((blob.size(), &*blob.read().unwrap()), (content.len() as u64, content));
    let digest = blob.digest();
    blob.place().unwrap();
    digest
}

/// Every file under `folder`, by its path from there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn documents_are_listed_by_the_beginning_of_their_keys() {
    let (_folder, store) = open();
    let keys = ["a", "a@1", "a@2", "a\u{10ffff}", "ab@1", "b@1"];
    let changes = keys.map(|key| Change::put("model", key, json!(1)));
    store.commit(None, &changes, &note("")).unwrap();
    let check = |prefix: &str, expected: &[&str]| {
        let listed = store.list("model", prefix).unwrap().into_iter().map(|(key, _)| key);
        assert_eq!(listed.collect::<Vec<_>>(), expected, "{prefix:?}");
    };
    check("", &["a", "a@1", "a@2", "ab@1", "a\u{10ffff}", "b@1"]);
    check("a@", &["a@1", "a@2"]);
    check("ab", &["ab@1"]);
    check("c", &[]);
}

#[test]
fn documents_follow_from_commits() {
    let (folder, store) = open();
    assert_eq!(store.sequence(), 0);
    let commits: [&[Change]; 4] = [
        &[
            Change::put("model", "b@1", json!({"p": 0.30000000000000004})),
            Change::put("model", "a@1", json!(null)),
        ],
        &[Change::put("endpoint", "a@1", json!([1]))],
        &[
            Change::delete("model", "a@1"),
            Change::put("model", "c", json!(1)),
            Change::delete("model", "none"),
        ],
        &[Change::put("model", "c", json!(2)), Change::put("model", "c", json!(3))],
    ];
    for (changes, sequence) in commits.into_iter().zip(1..) {
        assert_eq!(store.commit(Some(sequence - 1), changes, &note("why")).unwrap(), sequence);
    }
    assert_eq!(store.commit(None, &[], &note("nothing")).unwrap(), 4);
    let check = |store: &Store| {
        assert_eq!(store.sequence(), 4);
        assert_eq!(
            documents(store, "model"),
            [("b@1".into(), 1, json!({"p": 0.30000000000000004})), ("c".into(), 4, json!(3))]
        );
        assert_eq!(documents(store, "endpoint"), [("a@1".into(), 2, json!([1]))]);
        assert_eq!(documents(store, "other"), []);
        assert_eq!(store.get("model", "a@1").unwrap(), None);
        assert_eq!(store.get("model", "c").unwrap().unwrap().document, json!(3));
    };
    check(&store);
    drop(store);
    check(&Store::open(folder.path()).unwrap());
}

#[test]
fn history_is_latest_first() {
    let (_folder, store) = open();
    for (why, change) in [
        ("one", Change::put("k", "a", json!(1))),
        ("other", Change::put("k", "b", json!(0))),
        ("two", Change::put("k", "a", json!(2))),
        ("gone", Change::delete("k", "a")),
    ] {
        store.commit(None, &[change], &note(why)).unwrap();
    }
    let history = |limit| {
        let entries = store.history("k", "a", limit).unwrap();
        assert!(
            entries.iter().all(|entry| entry.note.who == "test" && entry.time > 1_600_000_000_000)
        );
        entries.into_iter().map(|it| (it.sequence, it.note.why, it.change)).collect::<Vec<_>>()
    };
    let all = [
        (4, "gone".into(), Change::delete("k", "a")),
        (3, "two".into(), Change::put("k", "a", json!(2))),
        (1, "one".into(), Change::put("k", "a", json!(1))),
    ];
    assert_eq!(history(usize::MAX), all);
    assert_eq!(history(2), all[..2]);
    assert_eq!(history(0), []);
}

#[test]
fn only_one_of_two_commits_from_the_same_state_succeeds() {
    let (_folder, store) = open();
    let mut watch = store.watch();
    store.commit(Some(0), &[Change::put("k", "a", json!(1))], &note("")).unwrap();
    let late = store.commit(Some(0), &[Change::put("k", "a", json!(2))], &note(""));
    assert!(matches!(late, Err(StoreError::Conflict { expected: 0, actual: 1 })), "{late:?}");
    assert_eq!(store.get("k", "a").unwrap().unwrap().document, json!(1));
    assert!(watch.has_changed().unwrap() && *watch.borrow_and_update() == 1);
    store.commit(None, &[], &note("")).unwrap();
    assert!(!watch.has_changed().unwrap());
}

#[test]
fn a_document_over_the_limit_is_refused_by_name() {
    let (_folder, store) = open();
    let large = Change::put("endpoint", "big", json!("x".repeat(5 << 20)));
    let error =
        store.commit(None, &[Change::put("k", "a", json!(1)), large], &note("")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the document of endpoint \"big\" is over the limit of 4194304 bytes"
    );
    assert_eq!(store.sequence(), 0);
}

#[test]
fn a_second_host_is_refused() {
    let (folder, store) = open();
    let other = store.clone();
    drop(store);
    let error = Store::open(folder.path()).err().unwrap().to_string();
    assert!(
        error.contains(&folder.path().display().to_string())
            && error.contains("in use by another host"),
        "{error}"
    );
    drop(other);
    Store::open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(
        error.starts_with("cannot make ") && error.contains(&path.display().to_string()),
        "{error}"
    );
}

#[test]
fn blobs_come_back() {
    let (folder, store) = open();
    for content in [&b""[..], b"x", &[7; 100_000]] {
        let digest = push(&store, content);
        assert_eq!(push(&store, content), digest, "written again");
        assert_eq!(store.blob_read(&digest).unwrap(), content);
        assert_eq!(fs::read(store.blob(&digest).unwrap().path()).unwrap(), content);
        store.blob(&digest).unwrap();
    }
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.blob_read(&Digest::of(b"x")).unwrap(), b"x");
    assert!(store.blob_exists(&Digest::of(b"x")).unwrap());
    assert!(!store.blob_exists(&Digest::of(b"y")).unwrap());
    for missing in [store.blob_read(&Digest::of(b"y")).err(), store.blob(&Digest::of(b"y")).err()] {
        assert!(matches!(missing, Some(StoreError::Missing { .. })), "{missing:?}");
    }
}

#[test]
fn an_altered_blob_is_found_and_repaired() {
    let (_folder, store) = open();
    let digest = push(&store, b"content");
    let path = store.blob(&digest).unwrap().path();
    fs::write(&path, "contend").unwrap();
    for corrupt in [store.blob_read(&digest).err(), store.blob(&digest).err()] {
        let text = corrupt.unwrap().to_string();
        for part in ["corrupt", &digest.to_string(), &path.display().to_string()] {
            assert!(text.contains(part), "{text}");
        }
    }
    push(&store, b"content");
    assert_eq!(store.blob_read(&digest).unwrap(), b"content");
}

#[test]
fn an_unfinished_blob_leaves_nothing() {
    let (folder, store) = open();
    let mut dropped = store.blob_writer(100).unwrap();
    dropped.write(b"half").unwrap();
    assert_eq!(files(&folder.path().join("blobs")).len(), 1);
    drop(dropped);

    let mut other = store.blob_writer(100).unwrap();
    other.write(b"other").unwrap();
    let mismatch = other.seal(Some(Digest::of(b"announced"))).err();
    assert!(matches!(mismatch, Some(StoreError::Mismatch { .. })), "{mismatch:?}");

    let mut large = store.blob_writer(5).unwrap();
    large.write(b"12345").unwrap();
    assert!(matches!(large.write(b"6"), Err(StoreError::TooLarge { limit: 5, .. })));
    drop(large);

    let mut sealed = store.blob_writer(5).unwrap();
    sealed.write(b"whole").unwrap();
    drop(sealed.seal(None).unwrap());
    assert_eq!(files(&folder.path().join("blobs")), Vec::<PathBuf>::new());

    // What another has placed stays.
    let digest = push(&store, b"whole");
    let mut again = store.blob_writer(5).unwrap();
    again.write(b"whole").unwrap();
    drop(again.seal(None).unwrap());
    assert_eq!(store.blob_read(&digest).unwrap(), b"whole");
}
