//! The configuration as it is written.

use serde::Deserialize;

/// Every key may be left out where the model and the tokenizer's file tell enough.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Tokens of a text that the model sees, the special ones included; what is longer is cut. By
    /// default the model's, or else that of the tokenizer's file, or else 512.
    pub(crate) max_length: Option<u64>,
    /// By default to the longest where the model takes any length, or else to `max_length`.
    pub(crate) padding: Option<Padding>,
    /// How one vector is made of a token's each; by default the mean.
    pub(crate) pooling: Option<Pooling>,
    /// Makes each vector's length 1.
    pub(crate) normalize: bool,
    /// The names of the model's inputs and output.
    pub(crate) ids: String,
    pub(crate) mask: String,
    pub(crate) types: String,
    /// By default `last_hidden_state`, or else the only one.
    pub(crate) output: Option<String>,
    /// Requests of more texts are refused.
    pub(crate) max_texts: usize,
    /// Texts of more bytes are refused.
    pub(crate) max_bytes: usize,
}

/// How long the rows of one inference are made.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Padding {
    /// As the longest text among them.
    Longest,
    /// As `max_length` says.
    MaxLength,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pooling {
    /// The mean over all tokens of the text.
    Mean,
    /// The first token's.
    Cls,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_length: None,
            padding: None,
            pooling: None,
            normalize: false,
            ids: "input_ids".to_owned(),
            mask: "attention_mask".to_owned(),
            types: "token_type_ids".to_owned(),
            output: None,
            max_texts: 256,
            max_bytes: 64 << 10,
        }
    }
}
