//! A host that is killed loses nothing that it acknowledged and leaves nothing half-written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the child acknowledges to its parent")]

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use berth_store::{Change, Note, Store};
use berth_tensor::Digest;
use serde_json::json;

/// Names the folder that a child of this test writes to.
const FOLDER: &str = "BERTH_TEST_CRASH_FOLDER";

fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(20_000)
}

/// Pushes and commits for ever, saying so after each, with a blob always half-written.
fn write_until_killed(folder: &Path) -> ! {
    let store = Store::open(folder).unwrap();
    for number in store.sequence() + 1.. {
        let mut half = store.blob_writer(1 << 20).unwrap();
        half.write(b"half").unwrap();
        let mut writer = store.blob_writer(1 << 20).unwrap();
        writer.write(&content(number)).unwrap();
        let blob = writer.seal(None).unwrap();
        let digest = blob.digest();
        blob.place().unwrap();
        let changes = [
            Change::put("blob", number.to_string(), json!(digest.to_string())),
            Change::put("last", "only", json!(number)),
        ];
        assert_eq!(store.commit(Some(number - 1), &changes, &Note::default()).unwrap(), number);
        println!("committed {number}");
    }
    unreachable!()
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if let Some(folder) = env::var_os(FOLDER) {
        write_until_killed(folder.as_ref());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for enough in [3, 8, 15] {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_survives_a_kill", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(number) = line.unwrap().strip_prefix("committed ") {
                acknowledged = number.parse().unwrap();
            }
            if acknowledged >= enough {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(acknowledged >= enough, "the child ended early");

        let store = Store::open(folder.path()).unwrap();
        let last = store.sequence();
        assert!(last >= acknowledged, "{acknowledged} was acknowledged, {last} is there");
        assert_eq!(store.get("last", "only").unwrap().unwrap().document, json!(last));
        for number in 1..=last {
            let document = store.get("blob", &number.to_string()).unwrap().unwrap().document;
            let digest: Digest = document.as_str().unwrap().parse().unwrap();
            assert_eq!(store.blob_read(&digest).unwrap(), content(number));
        }
        let left = std::fs::read_dir(folder.path().join("blobs/partial")).unwrap().count();
        assert_eq!(left, 0, "half-written blobs are left");
    }
}
