//! Processor that reports what it can see and reach.
//!
//! Configuration: `{"mode": …, "role": …}`, see [`Mode`]; the role is `default` unless given.

use berth_sdk::bindings::processor::wasi::nn::graph;
use berth_sdk::{
    Asset, ConfigError, Error, Graph, Model, Processor, Reply, Request, Signature, Tensor,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    #[serde(default)]
    mode: Mode,
    #[serde(default = "default_role")]
    role: String,
}

fn default_role() -> String {
    "default".to_owned()
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Answers all of the request as JSON.
    #[default]
    Request,
    /// Answers the request's body as it is.
    Body,
    /// Answers the request's body byte by byte in parts, with the parameter `parts` telling their number.
    Parts,
    /// Answers the request's tensors.
    Tensors,
    /// Answers copies of the request's tensors: every byte comes in and goes out again.
    Copies,
    /// Answers what the role's model makes of the request's tensors, over `wasi:nn`.
    Graph,
    /// The same over `model`, started twice and awaited in reverse.
    Model,
    /// Answers as JSON what became of attempts to reach models.
    Bind,
    /// Answers the granted assets as JSON.
    Assets,
}

impl Processor for Probe {
    type Config = Self;

    fn create(config: Self) -> Result<Self, ConfigError> {
        Ok(config)
    }

    fn signature(&self) -> Signature {
        let signature = Signature::default();
        match self.mode {
            Mode::Tensors | Mode::Copies | Mode::Graph | Mode::Model => signature,
            Mode::Body | Mode::Parts => {
                signature.takes_body("*/*").answers("application/octet-stream")
            }
            Mode::Request | Mode::Bind | Mode::Assets => {
                signature.takes_body("*/*").answers("application/json")
            }
        }
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        berth_sdk::debug!("probing {}", request.prediction_id());
        match self.mode {
            Mode::Request => reply.json(&seen(request)?),
            Mode::Body => {
                let content_type =
                    request.content_type().unwrap_or_else(|| "application/octet-stream".to_owned());
                reply.body(&content_type, request.body())
            }
            Mode::Parts => {
                reply.parameter("parts", &request.body_size().to_string())?;
                (0..request.body_size()).try_for_each(|at| reply.write(request.read_body(at, 1)))
            }
            Mode::Tensors => request
                .tensor_names()
                .iter()
                .try_for_each(|name| reply.tensor(name, &request.tensor(name)?)),
            Mode::Copies => inputs(request)?.iter().try_for_each(|(name, tensor)| {
                let copy = Tensor::from_bytes(
                    tensor.datatype(),
                    &tensor.shape(),
                    tensor.data().into_owned(),
                )?;
                reply.tensor(name, &copy)
            }),
            Mode::Graph => {
                let inputs = inputs(request)?;
                let outputs = Graph::load(&self.role)?.run(&borrow(&inputs))?;
                outputs.iter().try_for_each(|(name, tensor)| reply.tensor(name, tensor))
            }
            Mode::Model => {
                let inputs = inputs(request)?;
                let asked = request.requested_outputs();
                let asked: Vec<_> = asked.iter().map(String::as_str).collect();
                let model = Model::open(&self.role)?;
                let first = model.start(&borrow(&inputs), &asked)?;
                let second = model.start(&borrow(&inputs), &asked)?.wait()?;
                for ((name, one), (_, other)) in first.wait()?.iter().zip(second.iter()) {
                    if one.data() != other.data() {
                        return Err(Error::plugin(format!(
                            "output `{name}` differs between two runs"
                        )));
                    }
                    reply.tensor(name, one)?;
                }
                Ok(())
            }
            Mode::Bind => reply.json(&json!({
                "roles": Model::roles(),
                "load_by_name": outcome(graph::load_by_name(&self.role).map_err(Error::from)),
                "load": outcome(load_bytes().map_err(Error::from)),
                "open": outcome(Model::open(&self.role)),
                "asset": outcome(Asset::open(&self.role)),
            })),
            Mode::Assets => {
                let mut assets = Map::new();
                for name in Asset::names() {
                    let content = Asset::read_to_string(&name)?;
                    let asset = Asset::open(&name)?;
                    let value =
                        json!({"digest": asset.digest(), "size": asset.size(), "content": content});
                    assets.insert(name, value);
                }
                reply.json(&assets)
            }
        }
    }
}

berth_sdk::export_processor!(Probe, roles: &["default"], memory: 64 << 20, cpu_ms: 1000);

fn seen(request: &Request) -> Result<Value, Error> {
    let tensors = inputs(request)?;
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            json!({"name": name, "datatype": tensor.datatype().name(), "shape": tensor.shape(), "data": tensor.data()})
        })
        .collect();
    Ok(json!({
        "id": request.id(),
        "prediction": request.prediction_id(),
        "content_type": request.content_type(),
        "body_size": request.body_size(),
        "body": String::from_utf8_lossy(&request.body()),
        "tensors": tensors,
        "requested_outputs": request.requested_outputs(),
        "attributes": request.attributes().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "remaining_us": request.remaining().as_micros() as u64,
        "trace_context": request.trace_context(),
    }))
}

fn inputs(request: &Request) -> Result<Vec<(String, Tensor)>, Error> {
    request
        .tensor_names()
        .into_iter()
        .map(|name| Ok((name.clone(), request.tensor(&name)?)))
        .collect()
}

fn borrow(tensors: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

fn load_bytes() -> Result<graph::Graph, graph::Error> {
    graph::load(
        &[b"a model of one's own".to_vec()],
        graph::GraphEncoding::Onnx,
        graph::ExecutionTarget::Cpu,
    )
}

fn outcome<T>(result: Result<T, Error>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "granted".to_owned())
}
