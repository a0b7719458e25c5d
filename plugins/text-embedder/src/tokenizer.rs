//! Texts to token ids, as a `tokenizer.json` says.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PaddingDirection, PaddingParams,
    PostProcessor, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder, TokenizerImpl,
    TruncationParams,
};

use crate::batch::TOKENS;

/// The most tokens where neither the configuration, nor the model, nor the file tells.
const LENGTH: usize = 512;

/// What tokens that fill a row up are commonly called, where the file does not tell.
const PADS: [&str; 2] = ["[PAD]", "<pad>"];

/// A tokenizer that cuts texts to a number of tokens.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    inner: Inner,
    pub(crate) max_length: usize,
    pub(crate) pad: Pad,
}

type Inner = TokenizerImpl<
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// How rows are filled up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pad {
    pub(crate) id: u32,
    pub(crate) type_id: u32,
    /// Before the text in place of after it.
    pub(crate) left: bool,
}

/// One text as the model wants it, not yet filled up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) types: Vec<u32>,
}

/// A `tokenizer.json` but for its decoder, which turns ids back into text.
#[derive(serde::Deserialize)]
struct File {
    version: String,
    #[serde(default)]
    truncation: Option<TruncationParams>,
    #[serde(default)]
    padding: Option<PaddingParams>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    post_processor: Option<PostProcessorWrapper>,
    model: Model,
}

/// A model that is read straight into what it becomes. Its vocabulary is nearly all of the file, and
/// the type that is read by itself makes a tree of it first, and a second one of that.
struct Model(ModelWrapper);

impl Tokenizer {
    /// Reads a `tokenizer.json`. The error says what is wrong with it.
    pub(crate) fn read(json: &str, max_length: Option<usize>) -> Result<Self, String> {
        let file: File = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if file.version != "1.0" {
            return Err(format!("version {:?}, where only \"1.0\" is known", file.version));
        }
        let mut inner: Inner = TokenizerBuilder::new()
            .with_model(file.model.0)
            .with_normalizer(file.normalizer)
            .with_pre_tokenizer(file.pre_tokenizer)
            .with_post_processor(file.post_processor)
            .build()
            .map_err(|error| error.to_string())?;
        inner.add_tokens(file.added_tokens).map_err(|error| format!("added_tokens: {error}"))?;

        let given = max_length.or(file.truncation.as_ref().map(|truncation| truncation.max_length));
        let max_length = given.unwrap_or(LENGTH);
        let special =
            inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if max_length > TOKENS {
            return Err(format!(
                "it cuts texts at {max_length} tokens; configure a max_length of at most {TOKENS}"
            ));
        }
        if max_length <= special {
            return Err(format!(
                "it adds {special} special tokens to each text, and max_length is {max_length}"
            ));
        }
        let direction = file.truncation.map(|truncation| truncation.direction).unwrap_or_default();
        let truncation = TruncationParams { max_length, direction, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
        let pad = match file.padding {
            Some(padding) => Pad {
                id: padding.pad_id,
                type_id: padding.pad_type_id,
                left: matches!(padding.direction, PaddingDirection::Left),
            },
            None => Pad {
                id: PADS.iter().find_map(|name| inner.token_to_id(name)).unwrap_or(0),
                type_id: 0,
                left: false,
            },
        };
        Ok(Self { inner, max_length, pad })
    }

    /// The tokens of a text, at most `max_length`.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens, String> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() })
    }
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ByType)
    }
}

struct ByType;

impl<'de> Visitor<'de> for ByType {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let Some(key) = map.next_key::<String>()? else {
            return Err(Error::missing_field("type"));
        };
        if key != "type" {
            // Files of old say their type later, or not at all.
            let mut tree = serde_json::Map::new();
            tree.insert(key, map.next_value()?);
            while let Some((key, value)) = map.next_entry()? {
                tree.insert(key, value);
            }
            return serde_json::from_value(tree.into()).map(Model).map_err(Error::custom);
        }
        let name: String = map.next_value()?;
        let rest = MapAccessDeserializer::new(map);
        Ok(Model(match name.as_str() {
            "BPE" => BPE::deserialize(rest)?.into(),
            "WordPiece" => WordPiece::deserialize(rest)?.into(),
            "WordLevel" => WordLevel::deserialize(rest)?.into(),
            "Unigram" => Unigram::deserialize(rest)?.into(),
            _ => {
                let known = &["BPE", "WordPiece", "WordLevel", "Unigram"];
                return Err(Error::unknown_variant(&name, known));
            }
        }))
    }
}
