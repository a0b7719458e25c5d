//! A way to the host that counts what a client sends, and stops after so much of it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Takes connections for `host` until the test ends.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Proxy {
    /// Of what clients send, all connections together, `most` bytes get through; they are left to wait
    /// with the rest.
    pub(crate) fn start(host: SocketAddr, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, sent) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&sent);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(host) else { return };
                let ends = [&client, &server].map(|end| end.try_clone().unwrap());
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    pass(client, server, |size| {
                        let before = counted.fetch_add(size, Relaxed);
                        size.min(most.saturating_sub(before))
                    })
                });
                let [client, server] = ends;
                std::thread::spawn(move || pass(server, client, |size| size));
            }
        });
        Self { address, sent }
    }

    /// The bytes that clients have sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

/// Hands on what comes, of each piece as much as `allowed` says, until either side ends.
fn pass(mut from: TcpStream, mut to: TcpStream, allowed: impl Fn(u64) -> u64) {
    let mut buffer = [0; 1 << 14];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let size = allowed(read as u64) as usize;
        if to.write_all(&buffer[..size]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
