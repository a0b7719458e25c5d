//! What a component of the standard library needs to start, and nothing more: an empty environment,
//! an exit, closed input, output that goes to the host's log, a fixed seed for hash tables. There
//! is no clock, file, socket or true randomness behind any of it.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::{cli, random, sync::io};
use wasmtime_wasi::p2::{StreamError, StreamResult};

use io::poll::Pollable;
use io::streams::{InputStream, OutputStream};

/// The most that is kept of what a guest writes to its output and error streams.
const SAID: usize = 4 << 10;

/// The only handle of each kind that there is.
const STREAM: u32 = 1;

/// The last that a guest wrote to its output and error streams, such as a panic's message.
#[derive(Default)]
pub(crate) struct Said(Vec<u8>);

impl Said {
    fn write(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(SAID)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(SAID);
        self.0.drain(..excess);
        self.0.extend_from_slice(bytes);
    }

    /// What is kept, its lines joined by ` | ` so that they cannot pass for lines of the host's;
    /// empties it.
    pub(crate) fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.0);
        let text = String::from_utf8_lossy(&text);
        let lines = text.split(char::is_control).map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join(" | ")
    }
}

/// A store whose guest may be started.
pub(crate) trait Start: Send + 'static {
    /// Where the guest's output goes.
    fn said(&mut self) -> &mut Said;

    /// Charges a call that works on so many bytes, where calls are not charged by the clock.
    fn charge(&mut self, _bytes: usize) -> wasmtime::Result<()> {
        Ok(())
    }
}

struct View<'a>(&'a mut dyn Start);

impl View<'_> {
    fn say(&mut self, bytes: &[u8]) -> StreamResult<()> {
        self.0.charge(bytes.len()).map_err(StreamError::Trap)?;
        self.0.said().write(bytes);
        Ok(())
    }
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: Start>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let view: fn(&mut T) -> View<'_> = |state| View(state);
    cli::environment::add_to_linker::<T, Has>(linker, view)?;
    cli::exit::add_to_linker::<T, Has>(linker, view)?;
    cli::stdin::add_to_linker::<T, Has>(linker, view)?;
    cli::stdout::add_to_linker::<T, Has>(linker, view)?;
    cli::stderr::add_to_linker::<T, Has>(linker, view)?;
    cli::terminal_input::add_to_linker::<T, Has>(linker, view)?;
    cli::terminal_output::add_to_linker::<T, Has>(linker, view)?;
    cli::terminal_stdin::add_to_linker::<T, Has>(linker, view)?;
    cli::terminal_stdout::add_to_linker::<T, Has>(linker, view)?;
    cli::terminal_stderr::add_to_linker::<T, Has>(linker, view)?;
    io::error::add_to_linker::<T, Has>(linker, view)?;
    io::poll::add_to_linker::<T, Has>(linker, view)?;
    io::streams::add_to_linker::<T, Has>(linker, view)?;
    random::insecure_seed::add_to_linker::<T, Has>(linker, view)
}

impl cli::environment::Host for View<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for View<'_> {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(I32Exit(status.is_err().into()).into())
    }
    fn exit_with_code(&mut self, code: u8) -> wasmtime::Result<()> {
        Err(I32Exit(code.into()).into())
    }
}

impl cli::stdin::Host for View<'_> {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<InputStream>> {
        Ok(Resource::new_own(STREAM))
    }
}

impl cli::stdout::Host for View<'_> {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STREAM))
    }
}

impl cli::stderr::Host for View<'_> {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STREAM))
    }
}

impl cli::terminal_input::Host for View<'_> {}
impl cli::terminal_input::HostTerminalInput for View<'_> {
    fn drop(&mut self, _: Resource<cli::terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for View<'_> {}
impl cli::terminal_output::HostTerminalOutput for View<'_> {
    fn drop(&mut self, _: Resource<cli::terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for View<'_> {
    fn get_terminal_stdin(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for View<'_> {
    fn get_terminal_stdout(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for View<'_> {
    fn get_terminal_stderr(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl random::insecure_seed::Host for View<'_> {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((0x6265_7274_6820_6265, 0x7274_6820_6265_7274))
    }
}

impl io::error::Host for View<'_> {}
impl io::error::HostError for View<'_> {
    fn to_debug_string(&mut self, _: Resource<io::error::Error>) -> wasmtime::Result<String> {
        Ok(String::new())
    }
    fn drop(&mut self, _: Resource<io::error::Error>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl io::poll::Host for View<'_> {
    fn poll(&mut self, pollables: Vec<Resource<Pollable>>) -> wasmtime::Result<Vec<u32>> {
        self.0.charge(size_of_val(pollables.as_slice()))?;
        // Streams never block, so everything is ready.
        Ok((0..pollables.len() as u32).collect())
    }
}

impl io::poll::HostPollable for View<'_> {
    fn ready(&mut self, _: Resource<Pollable>) -> wasmtime::Result<bool> {
        Ok(true)
    }
    fn block(&mut self, _: Resource<Pollable>) -> wasmtime::Result<()> {
        Ok(())
    }
    fn drop(&mut self, _: Resource<Pollable>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl io::streams::Host for View<'_> {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<io::streams::StreamError> {
        match error {
            StreamError::Trap(error) => Err(error),
            StreamError::Closed | StreamError::LastOperationFailed(_) => {
                Ok(io::streams::StreamError::Closed)
            }
        }
    }
}

impl io::streams::HostInputStream for View<'_> {
    fn read(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }
    fn blocking_read(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<Vec<u8>> {
        Err(StreamError::Closed)
    }
    fn skip(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn blocking_skip(&mut self, _: Resource<InputStream>, _: u64) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn subscribe(&mut self, _: Resource<InputStream>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(Resource::new_own(STREAM))
    }
    fn drop(&mut self, _: Resource<InputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl io::streams::HostOutputStream for View<'_> {
    fn check_write(&mut self, _: Resource<OutputStream>) -> StreamResult<u64> {
        Ok(SAID as u64)
    }
    fn write(&mut self, _: Resource<OutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.say(&bytes)
    }
    fn blocking_write_and_flush(
        &mut self,
        _: Resource<OutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.say(&bytes)
    }
    fn flush(&mut self, _: Resource<OutputStream>) -> StreamResult<()> {
        Ok(())
    }
    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> StreamResult<()> {
        Ok(())
    }
    fn subscribe(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(Resource::new_own(STREAM))
    }
    fn write_zeroes(&mut self, _: Resource<OutputStream>, _: u64) -> StreamResult<()> {
        Ok(())
    }
    fn blocking_write_zeroes_and_flush(
        &mut self,
        _: Resource<OutputStream>,
        _: u64,
    ) -> StreamResult<()> {
        Ok(())
    }
    fn splice(
        &mut self,
        _: Resource<OutputStream>,
        _: Resource<InputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn blocking_splice(
        &mut self,
        _: Resource<OutputStream>,
        _: Resource<InputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::Closed)
    }
    fn drop(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_bounded_and_ends_with_the_last() {
        let mut said = Said::default();
        for line in 0..10_000 {
            said.write(format!("line {line}\n").as_bytes());
        }
        said.write(&vec![b'x'; 10_000]);
        said.write(b"\nthe end\n");
        let kept = said.take();
        assert!(kept.len() <= 3 * SAID && kept.ends_with("x | the end"), "{kept}");
        assert_eq!(said.take(), "");
    }
}
