//! Processor that answers one byte: what a call costs.

use berth_sdk::{ConfigError, Error, NoConfig, Processor, Reply, Request, Signature};

struct Empty;

impl Processor for Empty {
    type Config = NoConfig;

    fn create(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::default().takes_body("*/*").answers("application/octet-stream")
    }

    fn process(&self, _: &Request, reply: &Reply) -> Result<(), Error> {
        reply.write([0])
    }
}

berth_sdk::export_processor!(Empty);
