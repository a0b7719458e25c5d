//! Processor: texts in, one vector for each out.
//!
//! ```toml
//! [[variants]]
//! name = "main"
//! processor = "text-embedder@1"
//! models = { default = "bert@1" }
//! assets = { tokenizer = "tokenizer.json" }
//! config = { max_length = 128, pooling = "mean", normalize = true }
//! ```
//!
//! The asset `tokenizer` is a `tokenizer.json` of Hugging Face. The model of role `default` takes
//! token ids, their mask and, where it has such an input, their types, all [texts, tokens] of INT64
//! or INT32, and answers FP32: [texts, tokens, width], which is pooled, or [texts, width].
//!
//! The body `{"input": ["a text", "another"]}` or `{"input": "a text"}` is answered with
//! `{"embeddings": [[0.1, …], [0.2, …]], "tokens": [4, 3]}`; a BYTES tensor `input` of texts with an
//! FP32 tensor `embeddings` [texts, width].
//!
//! - `config`: the configuration as it is written
//! - `plan`: the configuration checked against the model
//! - `texts`: texts out of requests
//! - `tokenizer`: texts to token ids
//! - `batch`: tokens to the tensors of one inference after another
//! - `pool`: what the model answers to vectors
//! - `system`: what the tokenizers crate would ask a system for

mod batch;
mod config;
mod plan;
mod pool;
#[cfg(target_family = "wasm")]
mod system;
mod texts;
mod tokenizer;

use berth_sdk::{
    Asset, ConfigError, DataType, Error, Model, Processor, Reply, Request, Signature, Tensor,
    TensorType,
};
use serde::Serialize;

use crate::config::Config;
use crate::plan::Plan;
use crate::tokenizer::{Tokenizer, Tokens};

/// The asset that holds the tokenizer.
const TOKENIZER: &str = "tokenizer";

/// The tensor that is answered.
const OUTPUT: &str = "embeddings";

/// The most values of an answer: as JSON each takes a dozen bytes.
const ANSWER: usize = 8 << 20;

struct TextEmbedder {
    plan: Plan,
    model: Model,
    tokenizer: Tokenizer,
}

#[derive(Serialize)]
struct Answer {
    /// One a text, in the request's order.
    embeddings: Vec<Vec<f32>>,
    /// How many tokens of each text the model saw.
    tokens: Vec<usize>,
}

impl Processor for TextEmbedder {
    type Config = Config;

    fn create(config: Config) -> Result<Self, ConfigError> {
        let model = Model::open("default")?;
        let plan = Plan::new(config, &model.describe())?;
        if !Asset::names().iter().any(|name| name == TOKENIZER) {
            let message =
                "grant the asset `tokenizer`: assets = { tokenizer = \"tokenizer.json\" }";
            return Err(ConfigError::new("", message));
        }
        let json = Asset::read_to_string(TOKENIZER)?;
        let tokenizer = Tokenizer::read(&json, plan.max_length).map_err(|problem| {
            ConfigError::new("", format!("asset `{TOKENIZER}` is no tokenizer.json: {problem}"))
        })?;
        plan.check_length(tokenizer.max_length)?;
        Ok(Self { plan, model, tokenizer })
    }

    fn signature(&self) -> Signature {
        Signature::default()
            .takes_body("application/json")
            .takes(TensorType::new(texts::INPUT, DataType::Bytes, &[-1]))
            .answers("application/json")
            .answers_tensor(TensorType::new(OUTPUT, DataType::Fp32, &[-1, self.plan.width]))
    }

    fn process(&self, request: &Request, reply: &Reply) -> Result<(), Error> {
        let texts = texts::read(request, &self.plan)?;
        let tokens = self.tokens(&texts)?;
        let embeddings = self.embeddings(&tokens)?;
        if request.tensor_names().is_empty() {
            let tokens = tokens.iter().map(|tokens| tokens.ids.len()).collect();
            return reply.json(&Answer { embeddings, tokens });
        }
        let shape = [embeddings.len() as u64, embeddings[0].len() as u64];
        reply.tensor(OUTPUT, &Tensor::from_f32(&shape, &embeddings.concat())?)
    }
}

impl TextEmbedder {
    fn tokens(&self, texts: &[String]) -> Result<Vec<Tokens>, Error> {
        let mut all = Vec::with_capacity(texts.len());
        for (at, text) in texts.iter().enumerate() {
            let tokens = self.tokenizer.tokens(text);
            let tokens =
                tokens.map_err(|problem| Error::plugin(format!("text {at}: {problem}")))?;
            if tokens.ids.is_empty() {
                return Err(Error::caller(format!("text {at} has no tokens")));
            }
            all.push(tokens);
        }
        Ok(all)
    }

    fn embeddings(&self, tokens: &[Tokens]) -> Result<Vec<Vec<f32>>, Error> {
        let mut embeddings = Vec::with_capacity(tokens.len());
        let Tokenizer { max_length, pad, .. } = self.tokenizer;
        for batch in batch::batches(tokens, &self.plan, max_length, pad) {
            let inputs = batch.inputs(&self.plan)?;
            let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
            let outputs = self.model.start(&inputs, &[&self.plan.output])?.wait()?;
            let vectors = pool::vectors(outputs.first()?, &batch, &self.plan)?;
            check_size(tokens.len(), vectors.first().map_or(0, Vec::len))?;
            embeddings.extend(vectors);
        }
        Ok(embeddings)
    }
}

/// Refuses a request whose vectors are together more than an answer holds.
fn check_size(texts: usize, width: usize) -> Result<(), Error> {
    if texts.saturating_mul(width) <= ANSWER {
        return Ok(());
    }
    Err(Error::caller(format!(
        "{texts} texts of {width} values each are more than the {ANSWER} values of an answer; send fewer"
    )))
}

berth_sdk::export_processor!(TextEmbedder, roles: &["default"], assets: &[TOKENIZER], memory: 256 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_so_many_values() {
        for (texts, width, fits) in
            [(1, 64, true), (2048, 4096, true), (2048, 4097, false), (2, usize::MAX, false)]
        {
            assert_eq!(check_size(texts, width).is_ok(), fits, "{texts} of {width}");
        }
    }
}
