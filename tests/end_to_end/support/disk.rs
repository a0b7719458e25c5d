//! A disk of its own for a host, so small that it can be filled.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::files::told;

/// A file system in memory that only those see who enter it; gone when this is dropped.
pub(crate) struct Disk {
    /// Keeps it, doing nothing.
    keeper: Child,
    folder: PathBuf,
}

impl Disk {
    /// One of so many MiB on a folder; none where the system does not let us.
    pub(crate) fn mount(folder: &Path, mib: u32) -> Option<Self> {
        let mut keeper = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=\"$0\" tmpfs \"$1\" && echo mounted && exec cat")
            .arg(format!("{mib}m"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let said = BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line);
        let disk = Self { keeper, folder: folder.to_owned() };
        (said.is_ok() && line == "mounted\n").then_some(disk)
    }

    /// `berth`, inside.
    pub(crate) fn berth(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "--user", "--mount", "--target"]);
        command.arg(self.keeper.id().to_string()).arg("--").arg(told("BERTH_BIN"));
        command
    }

    /// The folder, as it is seen from outside.
    pub(crate) fn folder(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.keeper.id());
        Path::new(&root).join(self.folder.strip_prefix("/").unwrap())
    }

    /// Fills it but for so many bytes, rounded up to pages; none empties it of what filled it.
    pub(crate) fn fill(&self, free: Option<u64>) {
        let filler = self.folder().join("filler");
        let Some(free) = free else { return fs::remove_file(filler).unwrap() };
        let mut file = File::create(&filler).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[7; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        let length = file.metadata().unwrap().len();
        file.set_len(length - free.next_multiple_of(4096)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
