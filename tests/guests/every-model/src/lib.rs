//! Processor that has all models of its variant answer the request's tensors at the same time. The
//! output `y` of a role is answered as `ROLE.y`.

use berth_sdk::{
    ConfigError, Error, Model, NoConfig, Processor, Reply, Request, Signature, Tensor,
};

struct EveryModel;

impl Processor for EveryModel {
    type Config = NoConfig;

    fn create(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn signature(&self) -> Signature {
        Signature::default()
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        let names = request.tensor_names();
        let inputs: Vec<(&str, Tensor)> = names
            .iter()
            .map(|name| Ok((name.as_str(), request.tensor(name)?)))
            .collect::<Result<_, Error>>()?;
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let mut started = Vec::new();
        for role in Model::roles() {
            let run = Model::open(&role)?.start(&inputs, &[])?;
            started.push((role, run));
        }
        for (role, run) in started {
            for (name, tensor) in run.wait()?.iter() {
                reply.tensor(&format!("{role}.{name}"), tensor)?;
            }
        }
        Ok(())
    }
}

berth_sdk::export_processor!(EveryModel);
