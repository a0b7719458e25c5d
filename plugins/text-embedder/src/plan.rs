//! The configuration checked against the model.

use berth_sdk::{ConfigError, DataType, Description, TensorType};

use crate::batch::{TOKENS, VALUES};
use crate::config::{Config, Padding, Pooling};
use crate::texts::TEXTS;

/// How texts go through the model. Everything in it fits the model.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) ids: Input,
    pub(crate) mask: Input,
    /// Only where the model takes it.
    pub(crate) types: Option<Input>,
    pub(crate) output: String,
    /// How vectors are made of the output; none where it holds one a text already.
    pub(crate) pooling: Option<Pooling>,
    /// The length of a vector where the model declares it, else -1.
    pub(crate) width: i64,
    /// Of one inference, padding included.
    pub(crate) most_tokens: usize,
    pub(crate) normalize: bool,
    /// Where neither the configuration nor the model tells, the tokenizer's file does.
    pub(crate) max_length: Option<usize>,
    pub(crate) padding: Padding,
    /// Whether the model takes one text at a time and no more.
    pub(crate) one_by_one: bool,
    pub(crate) max_texts: usize,
    pub(crate) max_bytes: usize,
}

/// An input of the model: INT64, or else INT32.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) wide: bool,
}

impl Plan {
    pub(crate) fn new(config: Config, model: &Description) -> Result<Self, ConfigError> {
        let ids = input(model, &config.ids, "ids")?;
        let mask = input(model, &config.mask, "mask")?;
        like_ids(model, mask, ids, "mask")?;
        let has_types = model.inputs.iter().any(|input| input.name == config.types);
        let types = has_types.then(|| input(model, &config.types, "types")).transpose()?;
        types.map_or(Ok(()), |types| like_ids(model, types, ids, "types"))?;
        let known = [&config.ids, &config.mask, &config.types];
        if let Some(other) = model.inputs.iter().find(|input| !known.contains(&&input.name)) {
            let message = format!(
                "{} also takes `{}`; only token ids, their mask and their types can be given",
                model.name, other.name
            );
            return Err(ConfigError::new("", message));
        }
        let one_by_one = match ids.shape[0] {
            -1 => false,
            1 => true,
            rows => {
                let message = format!(
                    "input `{}` of {} takes {rows} texts at once; export it with a batch dimension that varies, or of 1",
                    ids.name, model.name
                );
                return Err(ConfigError::new("ids", message));
            }
        };
        let (max_length, padding) = length(&config, ids, &model.name)?;
        let output = output(&config, model)?;
        let pooling = match (output.shape.len(), config.pooling) {
            (3, pooling) => Some(pooling.unwrap_or(Pooling::Mean)),
            (2, None) => None,
            (2, Some(_)) => {
                let message = format!(
                    "leave it out: output `{}` of {} holds one vector a text",
                    output.name, model.name
                );
                return Err(ConfigError::new("pooling", message));
            }
            _ => {
                let message = format!(
                    "output `{}` of {}, of shape {:?}, is neither [texts, tokens, width] nor [texts, width]; name another, or export it",
                    output.name, model.name, output.shape
                );
                return Err(ConfigError::new("output", message));
            }
        };
        if !(1..=TEXTS).contains(&config.max_texts) {
            return Err(ConfigError::new("max_texts", format!("use 1 to {TEXTS}")));
        }
        if config.max_bytes == 0 {
            return Err(ConfigError::new("max_bytes", "use 1 or more"));
        }
        let width = output.shape.last().copied().unwrap_or(-1);
        Ok(Self {
            ids: ids.into(),
            mask: mask.into(),
            types: types.map(Input::from),
            width,
            most_tokens: match width {
                ..0 => TOKENS,
                width => TOKENS.min((VALUES as i64 / width.max(1)) as usize),
            },
            output: output.name.clone(),
            pooling,
            normalize: config.normalize,
            max_length,
            padding,
            one_by_one,
            max_texts: config.max_texts,
            max_bytes: config.max_bytes,
        })
    }

    /// Refuses texts of so many tokens when one of them is more than one inference may answer.
    pub(crate) fn check_length(&self, tokens: usize) -> Result<(), ConfigError> {
        if self.pooling.is_none() || tokens <= self.most_tokens {
            return Ok(());
        }
        let message = format!(
            "{tokens} tokens of {} values each are more than the {VALUES} values of one inference; use at most {}",
            self.width, self.most_tokens
        );
        Err(ConfigError::new("max_length", message))
    }
}

impl From<&TensorType> for Input {
    fn from(input: &TensorType) -> Self {
        Self { name: input.name.clone(), wide: input.datatype == DataType::Int64 }
    }
}

fn names(tensors: &[TensorType]) -> String {
    tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn input<'a>(model: &'a Description, name: &str, key: &str) -> Result<&'a TensorType, ConfigError> {
    let problem = match model.inputs.iter().find(|input| input.name == name) {
        None => format!("{} has no input `{name}`; it has {}", model.name, names(&model.inputs)),
        Some(input) if !matches!(input.datatype, DataType::Int64 | DataType::Int32) => format!(
            "input `{name}` of {} is {}; only INT64 and INT32 will do",
            model.name, input.datatype
        ),
        Some(input) if input.shape.len() != 2 => format!(
            "input `{name}` of {} has shape {:?}; only [texts, tokens] will do",
            model.name, input.shape
        ),
        Some(input) => return Ok(input),
    };
    Err(ConfigError::new(key, problem))
}

/// Refuses an input that does not take what has the shape of the ids.
fn like_ids(
    model: &Description,
    input: &TensorType,
    ids: &TensorType,
    key: &str,
) -> Result<(), ConfigError> {
    let mut sizes = input.shape.iter().zip(&ids.shape);
    if sizes.all(|(&taken, &given)| taken < 0 || taken == given) {
        return Ok(());
    }
    let message = format!(
        "input `{}` of {} has shape {:?}, and `{}` has {:?}; both get the same texts and tokens: export it so that it takes them",
        input.name, model.name, input.shape, ids.name, ids.shape
    );
    Err(ConfigError::new(key, message))
}

fn output<'a>(config: &Config, model: &'a Description) -> Result<&'a TensorType, ConfigError> {
    let find = |name: &str| model.outputs.iter().find(|output| output.name == name);
    let output = match (&config.output, &*model.outputs) {
        (Some(name), _) => find(name).ok_or_else(|| {
            let names = names(&model.outputs);
            let message = format!("{} has no output `{name}`; it has {names}", model.name);
            ConfigError::new("output", message)
        })?,
        (None, [only]) => only,
        (None, outputs) => find("last_hidden_state").ok_or_else(|| {
            let message = format!("{} has several; name one of {}", model.name, names(outputs));
            ConfigError::new("output", message)
        })?,
    };
    if output.datatype != DataType::Fp32 {
        let message = format!(
            "output `{}` of {} is {}; only FP32 will do",
            output.name, model.name, output.datatype
        );
        return Err(ConfigError::new("output", message));
    }
    Ok(output)
}

/// The most tokens, where they are known yet, and how rows are filled up.
fn length(
    config: &Config,
    ids: &TensorType,
    model: &str,
) -> Result<(Option<usize>, Padding), ConfigError> {
    let given = match config.max_length {
        None => None,
        Some(given) => Some(
            usize::try_from(given).ok().filter(|given| (1..=TOKENS).contains(given)).ok_or_else(
                || ConfigError::new("max_length", format!("use 1 to {TOKENS} tokens")),
            )?,
        ),
    };
    let Ok(fixed) = usize::try_from(ids.shape[1]) else {
        return Ok((given, config.padding.unwrap_or(Padding::Longest)));
    };
    if fixed > TOKENS || given.is_some_and(|given| given != fixed) {
        let message = format!(
            "input `{}` of {model} takes {fixed} tokens and no other number; leave it out",
            ids.name
        );
        return Err(ConfigError::new("max_length", message));
    }
    if config.padding == Some(Padding::Longest) {
        let message =
            format!("use \"max_length\": input `{}` of {model} takes {fixed} tokens", ids.name);
        return Err(ConfigError::new("padding", message));
    }
    Ok((Some(fixed), Padding::MaxLength))
}

#[cfg(test)]
mod tests {
    use DataType::{Fp32, Int32, Int64};

    use super::*;

    type Tensors<'a> = &'a [(&'a str, DataType, &'a [i64])];

    const BERT: Tensors = &[
        ("input_ids", Int64, &[-1, -1]),
        ("attention_mask", Int64, &[-1, -1]),
        ("token_type_ids", Int64, &[-1, -1]),
    ];
    const HIDDEN: Tensors =
        &[("last_hidden_state", Fp32, &[-1, -1, 64]), ("pooled", Fp32, &[-1, 64])];

    fn plan(json: &str, inputs: Tensors, outputs: Tensors) -> Result<Plan, ConfigError> {
        let types = |tensors: Tensors| {
            tensors
                .iter()
                .map(|(name, datatype, shape)| TensorType::new(name, *datatype, shape))
                .collect()
        };
        let model = Description {
            name: "m@1".to_owned(),
            inputs: types(inputs),
            outputs: types(outputs),
            properties: Vec::new(),
        };
        Plan::new(berth_sdk::config::parse(json)?, &model)
    }

    fn check(json: &str, inputs: Tensors, outputs: Tensors, expected: &str) {
        let plan = plan(json, inputs, outputs).unwrap();
        let names =
            |input: &Input| format!("{}{}", input.name, if input.wide { "" } else { "/32" });
        let types = plan.types.as_ref().map_or_else(|| "-".to_owned(), names);
        let found = format!(
            "{} {} {types} -> {} {:?} {}; {:?} {:?}{}",
            names(&plan.ids),
            names(&plan.mask),
            plan.output,
            plan.pooling,
            plan.width,
            plan.max_length,
            plan.padding,
            if plan.one_by_one { " one by one" } else { "" }
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_left_out_is_found_from_the_model() {
        check(
            "{}",
            BERT,
            HIDDEN,
            "input_ids attention_mask token_type_ids -> last_hidden_state Some(Mean) 64; None Longest",
        );
        check(
            r#"{"output": "pooled", "max_length": 16, "padding": "max_length"}"#,
            BERT,
            HIDDEN,
            "input_ids attention_mask token_type_ids -> pooled None 64; Some(16) MaxLength",
        );
        check(
            r#"{"ids": "i", "mask": "m", "pooling": "cls"}"#,
            &[("m", Int32, &[1, 8]), ("i", Int32, &[1, 8])],
            &[("y", Fp32, &[1, 8, -1])],
            "i/32 m/32 - -> y Some(Cls) -1; Some(8) MaxLength one by one",
        );
    }

    #[test]
    fn the_wider_a_vector_the_fewer_tokens_go_through_the_model_together() {
        let check = |width: i64, pooled: bool, most: usize, refused: &[usize]| {
            let shape: &[i64] = if pooled { &[-1, -1, width] } else { &[-1, width] };
            let plan = plan("{}", BERT, &[("y", Fp32, shape)]).unwrap();
            assert_eq!(plan.most_tokens, most, "{shape:?}");
            for tokens in [1, 512, 4096, TOKENS] {
                let refusal = plan.check_length(tokens).err();
                assert_eq!(refusal.is_some(), refused.contains(&tokens), "{shape:?} {refusal:?}");
            }
        };
        check(-1, true, TOKENS, &[]);
        check(64, true, TOKENS, &[]);
        check(1024, true, TOKENS, &[]);
        check(4096, true, 4096, &[TOKENS]);
        check(65_536, true, 256, &[512, 4096, TOKENS]);
        check(65_536, false, 256, &[]);
        check(i64::MAX, true, 0, &[1, 512, 4096, TOKENS]);
        let wide = plan("{}", BERT, &[("y", Fp32, &[-1, -1, 65_536])]).unwrap();
        let message = wide.check_length(512).unwrap_err().message;
        assert_eq!(
            message,
            "512 tokens of 65536 values each are more than the 16777216 values of one inference; use at most 256"
        );
    }

    #[test]
    fn a_configuration_that_does_not_fit_the_model_is_refused_by_key() {
        let refuse = |json: &str, inputs: Tensors, outputs: Tensors, key: &str, part: &str| {
            let error = plan(json, inputs, outputs).unwrap_err();
            assert!(
                error.key == key && error.message.contains(part),
                "{error:?}, expected {key}: {part}"
            );
        };
        let with = |last| [BERT[0], BERT[1], last];
        refuse("{}", &BERT[..1], HIDDEN, "mask", "no input `attention_mask`; it has input_ids");
        refuse("{}", &BERT[1..], HIDDEN, "ids", "it has attention_mask, token_type_ids");
        refuse(
            "{}",
            &with(("position_ids", Int64, &[-1, -1])),
            HIDDEN,
            "",
            "also takes `position_ids`",
        );
        refuse("{}", &with(("token_type_ids", Fp32, &[-1, -1])), HIDDEN, "types", "is FP32");
        refuse("{}", &with(("token_type_ids", Int64, &[-1])), HIDDEN, "types", "shape [-1]");
        let fixed = |rows, tokens| -> [i64; 2] { [rows, tokens] };
        let (four, eight) = (fixed(4, -1), fixed(-1, 8));
        let four = [("input_ids", Int64, &four[..]), BERT[1]];
        let eight = [("input_ids", Int64, &eight[..]), BERT[1]];
        refuse("{}", &four, HIDDEN, "ids", "takes 4 texts at once");
        for (mask, fits) in [(eight[0].2, false), (four[0].2, false), (BERT[0].2, true)] {
            let inputs = [BERT[0], ("attention_mask", Int64, mask)];
            let error = plan("{}", &inputs, HIDDEN).err();
            assert_eq!(error.is_none(), fits, "{error:?}");
        }
        refuse(
            "{}",
            &[eight[0], BERT[1], ("token_type_ids", Int32, &[-1, 9])],
            HIDDEN,
            "types",
            "`token_type_ids` of m@1 has shape [-1, 9], and `input_ids` has [-1, 8]",
        );
        refuse(r#"{"max_length": 9}"#, &eight, HIDDEN, "max_length", "takes 8 tokens");
        refuse(r#"{"padding": "longest"}"#, &eight, HIDDEN, "padding", "takes 8 tokens");
        refuse(r#"{"max_length": 0}"#, BERT, HIDDEN, "max_length", "use 1 to 16384");
        refuse(r#"{"max_length": 16385}"#, BERT, HIDDEN, "max_length", "use 1 to 16384");
        refuse(r#"{"output": "z"}"#, BERT, HIDDEN, "output", "it has last_hidden_state, pooled");
        refuse(
            "{}",
            BERT,
            &[("a", Fp32, &[-1, 1]), ("b", Fp32, &[-1, 1])],
            "output",
            "one of a, b",
        );
        refuse("{}", BERT, &[("a", Int64, &[-1, 1])], "output", "only FP32");
        refuse("{}", BERT, &[("a", Fp32, &[-1])], "output", "shape [-1], is neither");
        refuse(
            r#"{"output": "pooled", "pooling": "cls"}"#,
            BERT,
            HIDDEN,
            "pooling",
            "leave it out",
        );
        refuse(r#"{"pooling": "max"}"#, BERT, HIDDEN, "pooling", "`mean` or `cls`");
        refuse(r#"{"max_texts": 0}"#, BERT, HIDDEN, "max_texts", "use 1 to 2048");
        refuse(r#"{"max_bytes": 0}"#, BERT, HIDDEN, "max_bytes", "1 or more");
        refuse(r#"{"maxlength": 1}"#, BERT, HIDDEN, "maxlength", "unknown field");
    }
}
