//! Rank correlation.

/// Spearman's: Pearson's correlation of the ranks, ties sharing theirs. Of rows without order it is 1
/// when both have none, else 0; what is no number comes last.
pub(crate) fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let (of_a, of_b) = (product(&a, &a), product(&b, &b));
    match (of_a > 0.0, of_b > 0.0) {
        (true, true) => product(&a, &b) / (of_a * of_b).sqrt(),
        (false, false) => 1.0,
        _ => 0.0,
    }
}

/// The rank of each value from 0.
fn ranks(values: &[f64]) -> Vec<f64> {
    let compare = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(&b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| compare(values[a], values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (tied.len() as f64 - 1.0) / 2.0;
        tied.iter().for_each(|&at| ranks[at] = rank);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_correlated_as_scipy_says() {
        // scipy.stats.spearmanr(a, b).statistic
        for (a, b, expected) in [
            (
                &[1.0, 2.0, 3.0, 4.0, 5.0][..],
                &[5.0, 6.0, 7.0, 8.0, 7.0][..],
                0.820_782_681_668_123_3,
            ),
            (&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0], 1.0),
            (&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0], -1.0),
            (&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 2.0, 1.0], -0.235_702_260_395_515_8),
            (&[1.0, 1.0], &[2.0, 2.0], 1.0),
            (&[1.0, 1.0], &[1.0, 2.0], 0.0),
        ] {
            assert!((correlation(a, b) - expected).abs() < 1e-12, "{a:?} {b:?}");
        }
    }
}
