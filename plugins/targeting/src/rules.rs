//! The configuration checked against the endpoint, and its application to a request.

use std::collections::{BTreeMap, BTreeSet};

use berth_sdk::{ConfigError, Decision, Evaluation, Share};

use crate::config::{Config, Rule, When};

/// Beyond this, a decision could use up its fuel.
const MOST_RULES: usize = 256;
/// The host takes no more in a decision.
const MOST_FALLBACKS: usize = 16;
/// A name is a label of metrics.
const LONGEST_NAME: usize = 64;

/// What a rule looks at.
pub(crate) trait Request {
    fn attribute(&self, name: &str) -> Option<String>;
    /// Where the unit falls between 0 and 1, by salt.
    fn position(&self, salt: &str) -> f64;
}

/// Rules whose arms and attributes exist, as indexes.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The attributes that rules look at; conditions count in this order.
    attributes: Vec<String>,
    rules: Vec<Checked>,
    default: Decision,
    arms: usize,
}

#[derive(Debug)]
struct Checked {
    when: Option<(usize, Condition)>,
    /// The salt, and the position below which the rule applies.
    part: Option<(String, f64)>,
    decision: Decision,
}

#[derive(Debug)]
enum Condition {
    OneOf(BTreeSet<String>),
    Range(f64, f64),
    Prefix(String),
}

impl Rules {
    pub(crate) fn new(
        config: Config,
        arms: &[String],
        declared: &[String],
    ) -> Result<Self, ConfigError> {
        if config.rules.len() > MOST_RULES {
            let message = format!("{} rules; use at most {MOST_RULES}", config.rules.len());
            return Err(ConfigError::new("rules", message));
        }
        let fallbacks = check_fallbacks(&config.fallbacks, arms, "fallbacks")?;
        let mut default = Decision::arm(arm_index(arms, &config.default, "default")?, "default");
        default.fallbacks.clone_from(&fallbacks);
        let mut attributes = Vec::new();
        let mut rules = Vec::with_capacity(config.rules.len());
        for (index, mut rule) in config.rules.into_iter().enumerate() {
            let own = rule.fallbacks.take();
            let mut rule = check_rule(rule, index, arms, declared, &mut attributes)?;
            rule.decision.fallbacks = match own {
                Some(own) => check_fallbacks(&own, arms, &format!("rules[{index}].fallbacks"))?,
                None => fallbacks.clone(),
            };
            rules.push(rule);
        }
        Ok(Self { attributes, rules, default, arms: arms.len() })
    }

    /// Without a router all goes to the default; every arm that a rule may choose is ready.
    pub(crate) fn evaluation(&self) -> Evaluation {
        let mut weights = vec![0.0; self.arms];
        for share in &self.default.shares {
            weights[share.arm as usize] = share.weight;
        }
        let mut evaluation = Evaluation::standing(&weights);
        for decision in self.rules.iter().map(|rule| &rule.decision).chain([&self.default]) {
            let chosen = decision.shares.iter().map(|share| share.arm);
            for arm in chosen.chain(decision.fallbacks.iter().copied()) {
                evaluation.arms[arm as usize].state = berth_sdk::ArmState::Ready;
            }
        }
        evaluation
    }

    pub(crate) fn decide(&self, request: &impl Request) -> Decision {
        // Asking the host for an attribute costs more than a rule does.
        let mut values: Vec<Option<Option<String>>> = vec![None; self.attributes.len()];
        let applies = |rule: &&Checked| {
            let holds = rule.when.as_ref().is_none_or(|(attribute, condition)| {
                let value = values[*attribute]
                    .get_or_insert_with(|| request.attribute(&self.attributes[*attribute]));
                value.as_ref().is_some_and(|value| condition.holds(value))
            });
            holds && rule.part.as_ref().is_none_or(|(salt, below)| request.position(salt) < *below)
        };
        match self.rules.iter().find(applies) {
            Some(rule) => rule.decision.clone(),
            None => self.default.clone(),
        }
    }
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.contains(value),
            Self::Range(min, max) => {
                value.parse().is_ok_and(|value: f64| (*min..=*max).contains(&value))
            }
            Self::Prefix(prefix) => value.starts_with(prefix),
        }
    }
}

fn check_rule(
    rule: Rule,
    index: usize,
    arms: &[String],
    declared: &[String],
    attributes: &mut Vec<String>,
) -> Result<Checked, ConfigError> {
    let key = format!("rules[{index}]");
    let name = rule.name.unwrap_or_else(|| format!("rule-{}", index + 1));
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(ConfigError::new(
            format!("{key}.name"),
            format!("use 1 to {LONGEST_NAME} bytes"),
        ));
    }
    if rule.when.is_none() && rule.percentage.is_none() {
        return Err(ConfigError::new(
            key,
            "give `when`, `percentage` or both; what no rule takes goes to `default`",
        ));
    }
    if rule.salt.is_some() && rule.percentage.is_none() {
        return Err(ConfigError::new(format!("{key}.salt"), "a salt needs a `percentage`"));
    }
    let when = match rule.when {
        Some(when) => {
            if !declared.contains(&when.attribute) {
                let message = match declared {
                    [] => {
                        format!("the endpoint declares no attribute; declare `{}`", when.attribute)
                    }
                    _ => format!(
                        "the endpoint declares no `{}`, but {}",
                        when.attribute,
                        declared.join(", ")
                    ),
                };
                return Err(ConfigError::new(format!("{key}.when.attribute"), message));
            }
            let at =
                attributes.iter().position(|found| *found == when.attribute).unwrap_or_else(|| {
                    attributes.push(when.attribute.clone());
                    attributes.len() - 1
                });
            Some((at, check_condition(when, &format!("{key}.when"))?))
        }
        None => None,
    };
    let part = match rule.percentage {
        Some(percentage) if (0.0..=100.0).contains(&percentage) => {
            Some((rule.salt.unwrap_or_else(|| name.clone()), percentage / 100.0))
        }
        Some(percentage) => {
            return Err(ConfigError::new(
                format!("{key}.percentage"),
                format!("{percentage} is not within 0 to 100"),
            ));
        }
        None => None,
    };
    let shares = match (rule.arm, rule.shares) {
        (Some(arm), None) => {
            vec![Share { arm: arm_index(arms, &arm, &format!("{key}.arm"))?, weight: 1.0 }]
        }
        (None, Some(shares)) => check_shares(&shares, arms, &format!("{key}.shares"))?,
        _ => return Err(ConfigError::new(key, "give either `arm` or `shares`")),
    };
    Ok(Checked { when, part, decision: Decision::shares(shares, &name) })
}

fn check_condition(when: When, key: &str) -> Result<Condition, ConfigError> {
    match (when.equals, when.one_of, when.range, when.prefix) {
        (Some(value), None, None, None) => Ok(Condition::OneOf(BTreeSet::from([value]))),
        (None, Some(values), None, None) => Ok(Condition::OneOf(values.into_iter().collect())),
        (None, None, Some(range), None) => {
            let min = range.min.unwrap_or(f64::NEG_INFINITY);
            let max = range.max.unwrap_or(f64::INFINITY);
            if (range.min.is_none() && range.max.is_none()) || min > max {
                return Err(ConfigError::new(
                    format!("{key}.range"),
                    "give `min`, `max` or both, `min` not above `max`",
                ));
            }
            Ok(Condition::Range(min, max))
        }
        (None, None, None, Some(prefix)) => Ok(Condition::Prefix(prefix)),
        _ => Err(ConfigError::new(key, "give one of `equals`, `in`, `range` and `prefix`")),
    }
}

fn check_shares(
    shares: &BTreeMap<String, f64>,
    arms: &[String],
    key: &str,
) -> Result<Vec<Share>, ConfigError> {
    let mut checked = Vec::with_capacity(shares.len());
    for (arm, &weight) in shares {
        let key = format!("{key}.{arm}");
        let arm = arm_index(arms, arm, &key)?;
        if !weight.is_finite() || weight < 0.0 {
            return Err(ConfigError::new(
                key,
                format!("{weight} is no weight: use a number that is not negative"),
            ));
        }
        checked.push(Share { arm, weight });
    }
    let total: f64 = checked.iter().map(|share| share.weight).sum();
    if total <= 0.0 || !total.is_finite() {
        return Err(ConfigError::new(
            key,
            "give at least one arm a weight above 0, and none beyond all measure",
        ));
    }
    Ok(checked)
}

/// The arms to try, in order; the drawn one may be among them.
fn check_fallbacks(names: &[String], arms: &[String], key: &str) -> Result<Vec<u32>, ConfigError> {
    let mut fallbacks = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let key = format!("{key}[{at}]");
        let arm = arm_index(arms, name, &key)?;
        if fallbacks.contains(&arm) {
            return Err(ConfigError::new(key, format!("`{name}` is named twice")));
        }
        fallbacks.push(arm);
    }
    if fallbacks.len() > MOST_FALLBACKS {
        let message = format!("{} are too many: name at most {MOST_FALLBACKS}", fallbacks.len());
        return Err(ConfigError::new(key, message));
    }
    Ok(fallbacks)
}

fn arm_index(arms: &[String], arm: &str, key: &str) -> Result<u32, ConfigError> {
    let found = (0..).zip(arms).find(|(_, found)| *found == arm).map(|(index, _)| index);
    found.ok_or_else(|| {
        ConfigError::new(key, format!("there is no arm `{arm}`; the arms are {}", arms.join(", ")))
    })
}

#[cfg(test)]
mod tests;
