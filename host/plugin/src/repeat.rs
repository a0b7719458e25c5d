//! One instance called over and over, which only a benchmark does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::Resource;

use crate::Reply;
use crate::exchange::ONLY;
use crate::processor::{Call, CallError, Processor};
use crate::turns::Rank;

impl Processor {
    /// Makes one instance and calls its `process` so many `times`; answers how long the calls took,
    /// the instance not counted. It tells what a fresh instance costs a request, and is no way to
    /// answer one: something of a call may remain for the next.
    pub async fn repeat(&self, call: Call, times: u64) -> Result<Duration, CallError> {
        let mut store = self.store(call);
        let clock = Arc::clone(&store.data().account.cpu);
        let done = clock.charge(Rank::Fresh, async {
            let Ok((instance, processor)) = self.create(&mut store).await? else {
                return Ok(Err(CallError::Plugin("its config was refused".into())));
            };
            let start = Instant::now();
            for _ in 0..times {
                let (request, reply) = (Resource::new_borrow(ONLY), Resource::new_borrow(ONLY));
                let guest = instance.berth_plugin_processing().processor();
                if let Err(error) =
                    guest.call_process(&mut store, processor, request, reply).await?
                {
                    return Ok(Err(CallError::Plugin(error.message)));
                }
                let state = store.data_mut();
                state.reply = Reply::default();
                state.account.host_bytes.clear();
            }
            Ok(Ok(start.elapsed()))
        });
        done.await.unwrap_or_else(|error| Err(self.stopped(&mut store, &error)))
    }
}
