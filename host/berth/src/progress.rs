//! How much of a file has been read, as a bar on a terminal.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// What takes no longer than this shows no bar.
const QUICK: Duration = Duration::from_millis(500);

/// How often the bar moves.
const STEP: Duration = Duration::from_millis(100);

/// The bar's length in characters.
const WIDTH: usize = 30;

/// A file that is read, or the rest of one, and where it is; silent when standard error is no terminal.
pub(crate) struct Progress {
    file: File,
    what: String,
    from: u64,
    done: u64,
    length: u64,
    start: Instant,
    /// When the bar was drawn last.
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// Of a file that is read on from `from` to `length`, in bytes, and stands there.
    pub(crate) fn new(verb: &str, file: File, path: &Path, from: u64, length: u64) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let (start, is_terminal) = (Instant::now(), io::stderr().is_terminal());
        let what = format!("{verb} {name}");
        Self { file, what, from, done: from, length, start, drawn: None, is_terminal }
    }

    fn draw(&self) {
        let part = self.done as f64 / self.length.max(1) as f64;
        let full = (part * WIDTH as f64) as usize;
        let speed = (self.done - self.from) as f64 / self.start.elapsed().as_secs_f64();
        let left = (self.length.saturating_sub(self.done)) as f64 / speed.max(1.0);
        eprint!(
            "\r{} [{}{}] {:3.0} % of {} MiB, {:.0} MiB/s, {left:.0} s left \x1b[K",
            self.what,
            "#".repeat(full.min(WIDTH)),
            " ".repeat(WIDTH.saturating_sub(full)),
            part * 100.0,
            self.length >> 20,
            speed / f64::from(1 << 20),
        );
    }
}

impl Read for Progress {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        let due = self.drawn.map_or(self.start + QUICK, |drawn| drawn + STEP);
        if self.is_terminal && Instant::now() >= due {
            self.drawn = Some(Instant::now());
            self.draw();
        }
        Ok(read)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            // The line is free again for what comes of it.
            eprint!("\r\x1b[K");
        }
    }
}
