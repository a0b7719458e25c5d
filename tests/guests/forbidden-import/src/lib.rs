//! Processor that imports what is not granted: a clock, by way of the standard library.

use berth_sdk::{ConfigError, Error, NoConfig, Processor, Reply, Request, Signature};

struct Clock;

impl Processor for Clock {
    type Config = NoConfig;

    fn create(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::default().takes_body("*/*").answers("text/plain")
    }

    fn process(&self, _: &Request, reply: &Reply) -> Result<(), Error> {
        let since = std::time::Instant::now();
        reply.body("text/plain", format!("{:?}", since.elapsed()))
    }
}

berth_sdk::export_processor!(Clock);
