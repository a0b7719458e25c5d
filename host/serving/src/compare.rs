//! How far two answers to the same request are apart. Plain values in and out.

use berth_plugin::Reply;
use berth_tensor::{DataType, NamedTensor, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::ranks::correlation;
use crate::spec::SpecError;

/// When two answers agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// They are the same.
    #[default]
    Exact,
    /// Numbers differ by at most so much, times the larger of them where that is above 1.
    Tolerance(f64),
    /// The largest number of each row, or the first entry of each list that is in an order, is the same.
    #[serde(rename = "top-1")]
    Top1,
    /// The ranks of the numbers of each row are correlated at least so much, -1 to 1.
    Rank(f64),
}

/// What [`Compare`] says of two answers that do not agree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// How far they are apart: of two numbers the part by which they differ, of ranks what their
    /// correlation lacks to 1; [`OTHER`] where they cannot be compared.
    pub(crate) distance: f64,
    /// What differs.
    pub(crate) said: String,
}

/// The distance of what is not of one kind.
pub(crate) const OTHER: f64 = 1e9;

/// How two rows of numbers, or two entries, differ.
type Found = Result<(), Difference>;

fn other(said: String) -> Found {
    Err(Difference { distance: OTHER, said })
}

impl Compare {
    pub(crate) fn check(self) -> Result<(), SpecError> {
        let problem = match self {
            Self::Exact | Self::Top1 => return Ok(()),
            Self::Tolerance(most) if most.is_finite() && most >= 0.0 => return Ok(()),
            Self::Rank(least) if (-1.0..=1.0).contains(&least) => return Ok(()),
            Self::Tolerance(_) => "a tolerance is a number that is not negative",
            Self::Rank(_) => "a rank correlation is within -1 and 1",
        };
        Err(SpecError::new("shadow.compare", problem))
    }

    /// Compares the answer of a shadow with the live one.
    pub(crate) fn replies(self, live: &Reply, shadow: &Reply) -> Found {
        if live.tensors.is_empty() && shadow.tensors.is_empty() {
            return self.bodies(live, shadow);
        }
        let names = |reply: &Reply| {
            let mut names: Vec<String> =
                reply.tensors.iter().map(|named| named.name.clone()).collect();
            names.sort();
            names
        };
        let (expected, found) = (names(live), names(shadow));
        if expected != found {
            return other(format!("outputs {found:?} in place of {expected:?}"));
        }
        for NamedTensor { name, tensor } in &live.tensors {
            let Some(found) = shadow.tensors.iter().find(|found| found.name == *name) else {
                continue;
            };
            self.tensors(tensor, &found.tensor).map_err(|mut difference| {
                difference.said = format!("output {name:?}: {}", difference.said);
                difference
            })?;
        }
        Ok(())
    }

    fn tensors(self, live: &Tensor, shadow: &Tensor) -> Found {
        let kind = |tensor: &Tensor| format!("{} {:?}", tensor.datatype(), tensor.shape());
        if live.shape() != shadow.shape() || live.datatype() != shadow.datatype() {
            return other(format!("{} in place of {}", kind(shadow), kind(live)));
        }
        if live.data() == shadow.data() {
            return Ok(());
        }
        if live.datatype() == DataType::Bytes {
            return other("another value".to_owned());
        }
        let [expected, found] = [live, shadow].map(|tensor| tensor.numbers().collect::<Vec<_>>());
        let row = live.shape().last().map_or(1, |&row| row as usize).max(1);
        let rows = expected.chunks(row).zip(found.chunks(row)).enumerate();
        let compared = farthest(rows.map(|(at, (live, shadow))| {
            self.row(live, shadow).map_err(|mut difference| {
                difference.said = format!("row {at}: {}", difference.said);
                difference
            })
        }));
        // Whole numbers of 64 bits may differ by less than what they are compared as can tell.
        match (self, live.datatype()) {
            (Self::Exact, DataType::Int64 | DataType::Uint64) => {
                compared.and_then(|()| other("another value".to_owned()))
            }
            _ => compared,
        }
    }

    fn bodies(self, live: &Reply, shadow: &Reply) -> Found {
        let (expected, found) = (live.parts.concat(), shadow.parts.concat());
        if expected == found {
            return Ok(());
        }
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        match (json(&expected), json(&found)) {
            (Some(expected), Some(found)) => self.values(&expected, &found, false, "$"),
            _ => other(format!("{} other bytes in place of {}", found.len(), expected.len())),
        }
    }

    /// `scored`: whether a fraction is the score of what is beside it.
    fn values(self, live: &Value, shadow: &Value, scored: bool, path: &str) -> Found {
        let differ = || other(format!("{path}: {} in place of {}", short(shadow), short(live)));
        match (live, shadow) {
            (Value::Number(_), Value::Number(_)) if live == shadow => Ok(()),
            (Value::Number(of_live), Value::Number(of_shadow)) => match self {
                Self::Top1 | Self::Rank(_) if scored && !(is_whole(live) && is_whole(shadow)) => {
                    Ok(())
                }
                // They may differ by less than a double can tell.
                Self::Exact if is_whole(live) && is_whole(shadow) => differ(),
                _ => {
                    let number = |of: &Number| [of.as_f64().unwrap_or(f64::NAN)];
                    let compared = self.row(&number(of_live), &number(of_shadow));
                    compared.map_err(|mut difference| {
                        difference.said = format!("{path}: {}", difference.said);
                        difference
                    })
                }
            },
            (Value::Object(live), Value::Object(shadow)) => {
                if live.len() != shadow.len() || !live.keys().all(|key| shadow.contains_key(key)) {
                    return other(format!("{path}: other keys"));
                }
                let scored = live.values().any(|value| value.is_string() || is_whole(value));
                farthest(live.iter().map(|(key, value)| {
                    self.values(value, &shadow[key], scored, &format!("{path}.{key}"))
                }))
            }
            (Value::Array(live), Value::Array(shadow)) => {
                let numbers = |list: &[Value]| list.iter().map(Value::as_f64).collect();
                let rows: (Option<Vec<f64>>, Option<Vec<f64>>) = (numbers(live), numbers(shadow));
                if let (Some(live), Some(shadow)) = rows
                    && live.len() > 1
                    && live.len() == shadow.len()
                {
                    return self.row(&live, &shadow).map_err(|mut difference| {
                        difference.said = format!("{path}: {}", difference.said);
                        difference
                    });
                }
                let best = match (self, ranked(live), ranked(shadow)) {
                    (Self::Rank(least), Some(live), Some(shadow)) => {
                        return in_order(&live, &shadow, least, path);
                    }
                    (Self::Top1, Some(_), Some(_)) => 1,
                    _ => usize::MAX,
                };
                if live.len().min(best) != shadow.len().min(best) {
                    return other(format!("{path}: {} in place of {}", shadow.len(), live.len()));
                }
                let pairs = live.iter().zip(shadow).take(best).enumerate();
                farthest(pairs.map(|(at, (live, shadow))| {
                    self.values(live, shadow, false, &format!("{path}[{at}]"))
                }))
            }
            _ if live == shadow => Ok(()),
            _ => differ(),
        }
    }

    /// Compares two rows of as many numbers.
    fn row(self, live: &[f64], shadow: &[f64]) -> Found {
        let apart = |tolerance: f64| {
            farthest(live.iter().zip(shadow).map(|(&live, &shadow)| {
                let same = live == shadow || live.is_nan() && shadow.is_nan();
                let most = live.abs().max(shadow.abs()).max(1.0);
                let by = (live - shadow).abs() / most;
                if same || by <= tolerance {
                    return Ok(());
                }
                let distance = if by.is_finite() { by } else { OTHER };
                Err(Difference { distance, said: format!("{shadow} in place of {live}") })
            }))
        };
        match self {
            Self::Exact => apart(0.0),
            Self::Tolerance(most) => apart(most),
            // Of one number none is the largest.
            Self::Top1 | Self::Rank(_) if live.len() < 2 => apart(0.0),
            Self::Top1 => {
                let (expected, found) = (largest(live), largest(shadow));
                if expected == found {
                    return Ok(());
                }
                let distance = (shadow[found] - shadow[expected]).abs();
                Err(Difference {
                    distance: if distance.is_finite() { distance } else { OTHER },
                    said: format!("number {found} is the largest in place of {expected}"),
                })
            }
            Self::Rank(least) => match correlation(live, shadow) {
                correlation if correlation >= least => Ok(()),
                correlation => Err(Difference {
                    distance: 1.0 - correlation,
                    said: format!("ranks are correlated by {correlation:.3}"),
                }),
            },
        }
    }
}

/// Of several comparisons the worst.
fn farthest(compared: impl Iterator<Item = Found>) -> Found {
    let worst = compared.filter_map(Result::err).max_by(|a, b| a.distance.total_cmp(&b.distance));
    worst.map_or(Ok(()), Err)
}

/// Two lists of texts, best first: the texts of one have the same order in the other.
fn in_order(live: &[&str], shadow: &[&str], least: f64, path: &str) -> Found {
    let mut texts: Vec<&str> = live.to_vec();
    texts.extend(shadow.iter().filter(|text| !live.contains(text)));
    if texts.len() < 2 {
        return Ok(());
    }
    // What is not in a list comes after all that is.
    let places = |list: &[&str]| -> Vec<f64> {
        let place = |text: &&str| list.iter().position(|known| known == text);
        texts.iter().map(|text| place(text).unwrap_or(list.len()) as f64).collect()
    };
    let correlation = correlation(&places(live), &places(shadow));
    if correlation >= least {
        return Ok(());
    }
    let said = format!("{path}: the order is correlated by {correlation:.3}");
    Err(Difference { distance: 1.0 - correlation, said })
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

/// The texts of a list that is in an order, best first: of texts, or of objects that have one, the
/// first of each, and a number that never rises. Else it has answers that are beside each other.
fn ranked(list: &[Value]) -> Option<Vec<&str>> {
    let falls = |key: &String| {
        let numbers: Option<Vec<f64>> = list.iter().map(|value| value[key].as_f64()).collect();
        numbers.is_some_and(|numbers| numbers.is_sorted_by(|a, b| a >= b))
    };
    let objects = list.first().and_then(Value::as_object);
    if objects.is_some_and(|first| !first.keys().any(falls)) {
        return None;
    }
    fn text(value: &Value) -> Option<&str> {
        match value {
            Value::String(text) => Some(text),
            Value::Object(object) => object.values().find_map(Value::as_str),
            _ => None,
        }
    }
    list.iter().map(text).collect()
}

fn largest(row: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in row.iter().enumerate() {
        // What is no number is never the largest, and of equals the first is.
        if *value > row[best] || row[best].is_nan() {
            best = at;
        }
    }
    best
}

/// The first elements of a tensor, as text.
pub(crate) fn first_numbers(tensor: &Tensor) -> String {
    match tensor.datatype() {
        DataType::Bytes => format!("{} bytes", tensor.data().len()),
        _ => format!("{:?}", tensor.numbers().take(16).collect::<Vec<_>>()),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    text[..text.floor_char_boundary(60)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn tensor(shape: &[u64], values: &[f32]) -> Reply {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Tensor::new(DataType::Fp32, shape.to_vec(), Bytes::from(data)).unwrap();
        Reply { tensors: vec![NamedTensor { name: "y".into(), tensor }], ..Reply::default() }
    }

    fn body(text: &str) -> Reply {
        Reply { parts: vec![Bytes::copy_from_slice(text.as_bytes())], ..Reply::default() }
    }

    #[track_caller]
    fn check(how: Compare, live: &Reply, shadow: &Reply, expected: Option<(f64, &str)>) {
        match (how.replies(live, shadow), expected) {
            (Ok(()), None) => {}
            (Err(found), Some((distance, part))) => {
                let near = (found.distance - distance).abs() <= distance * 1e-6;
                assert!(near && found.said.contains(part), "{how:?}: {found:?}");
            }
            (found, expected) => panic!("{how:?}: {found:?}, expected {expected:?}"),
        }
    }

    const WAYS: [Compare; 4] =
        [Compare::Exact, Compare::Tolerance(0.01), Compare::Top1, Compare::Rank(0.9)];

    #[test]
    fn tensors_are_compared_by_rows() {
        let live = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 9.0, 6.0]);
        let one = |row: [f32; 3]| tensor(&[2, 3], &[1.0, 2.0, 3.0, row[0], row[1], row[2]]);
        let fine = [None; 4];
        for (shadow, expected) in [
            (live.clone(), fine),
            (one([4.0, 9.0, 6.001]), [Some((0.000_166_626_818, "row 1: 6.00")), None, None, None]),
            (one([5.0, 9.0, 5.5]), [Some((0.2, "5 in")), Some((0.2, "5 in")), None, None]),
            (
                one([4.0, 6.0, 9.0]),
                [
                    Some((3.0 / 9.0, "row 1")),
                    Some((3.0 / 9.0, "row 1")),
                    Some((3.0, "number 2 is the largest in place of 1")),
                    Some((0.5, "correlated by 0.500")),
                ],
            ),
            (
                one([4.0, 9.0, f32::NAN]),
                [Some((OTHER, "NaN")), Some((OTHER, "NaN")), None, Some((0.5, "correlated"))],
            ),
            (tensor(&[3, 2], &[1.0; 6]), [Some((OTHER, "FP32 [3, 2] in place of FP32 [2, 3]")); 4]),
            (body("{}"), [Some((OTHER, "outputs [] in place of [\"y\"]")); 4]),
        ] {
            for (how, expected) in WAYS.into_iter().zip(expected) {
                check(how, &live, &shadow, expected);
            }
        }
        // Of one number none is the largest.
        let (one, two) = (tensor(&[1], &[1.0]), tensor(&[1], &[2.0]));
        check(Compare::Top1, &one, &two, Some((0.5, "2 in place of 1")));
        check(Compare::Rank(0.5), &one, &one, None);
    }

    #[test]
    fn json_is_compared_by_its_texts_and_numbers() {
        let live = r#"{"top":[{"label":"8","score":0.9},{"label":"3","score":0.1}],"v":[1,5,2]}"#;
        for (shadow, expected) in [
            (live.replace(',', " , "), [None; 4]),
            (
                live.replace("0.9", "0.8"),
                [Some((0.1, "$.top[0].score")), Some((0.1, "0.8")), None, None],
            ),
            (
                live.replace("[1,5,2]", "[1,2,5]"),
                [
                    Some((0.6, "$.v")),
                    Some((0.6, "$.v")),
                    Some((3.0, "$.v: number 2")),
                    Some((0.5, "$.v: ranks")),
                ],
            ),
            (
                live.replace('8', "#").replace('3', "8").replace('#', "3"),
                [
                    Some((OTHER, "in place of")),
                    Some((OTHER, "in place of")),
                    Some((OTHER, "$.top[0].label")),
                    Some((2.0, "$.top: the order is correlated by -1.000")),
                ],
            ),
            (
                live.replace("score", "p"),
                [
                    Some((OTHER, "other keys")),
                    Some((OTHER, "other keys")),
                    Some((OTHER, "other keys")),
                    None,
                ],
            ),
            ("not json".into(), [Some((OTHER, "other bytes")); 4]),
        ] {
            for (how, expected) in WAYS.into_iter().zip(expected) {
                check(how, &body(live), &body(&shadow), expected);
            }
        }
        check(Compare::Top1, &body("text"), &body("text"), None);
    }

    #[test]
    fn answers_beside_each_other_are_all_compared() {
        let pictures = |second: &str| {
            let list = |label: &str| format!(r#"{{"top":[{{"label":"{label}","score":0.5}}]}}"#);
            format!(r#"{{"pictures":[{},{}]}}"#, list("1"), list(second))
        };
        // In no order: of two pictures each, not of one the best.
        let beside = |second: &str| {
            format!(r#"[{{"label":"1","score":0.5}},{{"label":"{second}","score":0.9}}]"#)
        };
        for (live, shadow, same) in [
            (pictures("3"), pictures("3").replace("0.5", "0.6"), true),
            (pictures("3"), pictures("8"), false),
            (beside("3"), beside("8"), false),
            ("[[1,5],[5,1]]".into(), "[[1,4],[4,1]]".into(), true),
            ("[[1,5],[5,1]]".into(), "[[1,5],[1,5]]".into(), false),
            (r#"{"class":5}"#.into(), r#"{"class":7}"#.into(), false),
            (r#"{"class":5,"score":0.5}"#.into(), r#"{"class":5,"score":0.6}"#.into(), true),
            (r#"{"class":5,"score":0.5}"#.into(), r#"{"class":7,"score":0.5}"#.into(), false),
            (r#"{"price":0.5}"#.into(), r#"{"price":0.6}"#.into(), false),
            ("[\"a\",\"b\"]".into(), "[\"a\",\"c\"]".into(), true),
        ] {
            let (live, shadow) = (body(&live), body(&shadow));
            let agree = Compare::Top1.replies(&live, &shadow).is_ok();
            assert_eq!(agree, same, "{:?} {:?}", live.parts, shadow.parts);
        }
    }

    #[test]
    fn whole_numbers_are_told_apart_to_the_last_digit() {
        let [one, other] = [9_007_199_254_740_992_i64, 9_007_199_254_740_993].map(|value| {
            let data = Bytes::copy_from_slice(&value.to_le_bytes());
            let tensor = Tensor::new(DataType::Int64, vec![1], data).unwrap();
            let tensors = vec![NamedTensor { name: "y".into(), tensor }];
            [Reply { tensors, ..Reply::default() }, body(&value.to_string())]
        });
        for (one, other) in one.iter().zip(&other) {
            assert!(Compare::Exact.replies(one, one).is_ok());
            assert!(Compare::Exact.replies(one, other).is_err());
        }
    }

    #[test]
    fn ways_are_written_as_they_are_meant() {
        for (json, expected) in [
            ("\"top-1\"", Some(Compare::Top1)),
            ("\"exact\"", Some(Compare::Exact)),
            (r#"{"tolerance":0.001}"#, Some(Compare::Tolerance(0.001))),
            (r#"{"rank":0.9}"#, Some(Compare::Rank(0.9))),
            (r#"{"tolerance":-1.0}"#, None),
            (r#"{"rank":1.5}"#, None),
            ("\"top-2\"", None),
        ] {
            let read = serde_json::from_str::<Compare>(json).ok();
            assert_eq!(read.filter(|read| read.check().is_ok()), expected, "{json}");
        }
    }
}
