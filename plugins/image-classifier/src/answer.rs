//! Scores to predictions.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// Best first.
    pub(crate) predictions: Vec<Prediction>,
}

/// What is answered for several pictures, in their order.
#[derive(Debug, Serialize)]
pub(crate) struct Answers {
    pub(crate) pictures: Vec<Answer>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Prediction {
    pub(crate) label: String,
    pub(crate) score: f32,
    /// The index of the score, from 0.
    pub(crate) class: usize,
}

/// Turns scores into probabilities in place.
pub(crate) fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        total += *score;
    }
    for score in scores {
        *score /= total;
    }
}

/// The `top` best classes; of equal ones the lower first. Without labels a class is called by its
/// number. Fails when the scores are none, or there is no label for each.
pub(crate) fn answer(
    scores: &[f32],
    top: usize,
    labels: Option<&[String]>,
) -> Result<Answer, String> {
    if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
        return Err(format!("the model's score for class {at} is no finite number"));
    }
    if let Some(labels) = labels.filter(|labels| labels.len() != scores.len()) {
        return Err(format!("{} labels for {} scores", labels.len(), scores.len()));
    }
    let mut classes: Vec<usize> = (0..scores.len()).collect();
    classes.sort_by(|&one, &other| scores[other].total_cmp(&scores[one]));
    let predictions = classes.into_iter().take(top).map(|class| Prediction {
        label: labels.map_or_else(|| class.to_string(), |labels| labels[class].clone()),
        score: scores[class],
        class,
    });
    Ok(Answer { predictions: predictions.collect() })
}

/// The labels of a text that has one a line.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        scores: &[f32],
        top: usize,
        labels: Option<&[&str]>,
        expected: Result<&[(&str, usize)], &str>,
    ) {
        let labels: Option<Vec<_>> =
            labels.map(|labels| labels.iter().map(|&label| label.to_owned()).collect());
        match (answer(scores, top, labels.as_deref()), expected) {
            (Ok(answer), Ok(expected)) => {
                let found: Vec<_> =
                    answer.predictions.iter().map(|one| (one.label.as_str(), one.class)).collect();
                assert_eq!(found, expected);
                assert!(answer.predictions.iter().all(|one| one.score == scores[one.class]));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (answer, expected) => panic!("{answer:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_best_come_first() {
        check(&[0.1, 0.7, 0.2], 2, None, Ok(&[("1", 1), ("2", 2)]));
        check(&[0.5, 0.5], 5, Some(&["a", "b"]), Ok(&[("a", 0), ("b", 1)]));
        check(&[-1.0, -0.5], 1, Some(&["a", "b"]), Ok(&[("b", 1)]));
        check(&[], 1, None, Ok(&[]));
        check(&[0.1, f32::NAN], 1, None, Err("class 1"));
        check(&[0.1, 0.2], 1, Some(&["a"]), Err("1 labels for 2 scores"));
    }

    #[test]
    fn softmax_gives_probabilities() {
        let mut scores = [1000.0, 1000.0, 0.0];
        softmax(&mut scores);
        assert_eq!(scores, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn labels_are_lines() {
        assert_eq!(lines("cat\r\n dog\n\nhorse\n"), ["cat", "dog", "", "horse"]);
    }
}
