//! Several comparisons at once: several arms, several days.

use crate::Estimate;
use crate::distribution::chi_squared_upper;

/// The p-values of several tests, each made so large that whoever goes by all of them gives a false
/// alarm with at most alpha (Holm 1979, Scandinavian Journal of Statistics 6:65). Also right for
/// p-values that are valid at any time. Order stays; what is no number counts as 1.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let of = |index: usize| if p_values[index].is_nan() { 1.0 } else { p_values[index] };
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| of(a).total_cmp(&of(b)));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max(of(index) * (p_values.len() - rank) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// One effect from those of several times, or other parts of the data that have no unit in common,
/// each weighted by 1 / variance; its units are all of theirs. What is not known is left out;
/// without any that is, the effect is not known.
pub fn pooled(effects: &[Estimate]) -> Estimate {
    let known = || effects.iter().filter(|effect| effect.is_known());
    let weight: f64 = known().map(|effect| 1.0 / effect.variance).sum();
    let sum: f64 = known().map(|effect| effect.value / effect.variance).sum();
    let units = known().map(|effect| effect.units).fold(0, u64::saturating_add);
    Estimate { value: sum / weight, variance: 1.0 / weight, units }
}

/// Whether an effect was the same at all times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    /// The effect over all times, [`pooled`].
    pub effect: Estimate,
    /// Cochran's Q: Σ (effect of a time − effect)² / variance of that time.
    pub statistic: f64,
    /// The probability of a Q this large when the effect is always the same. Small: it differs.
    pub p_value: f64,
    /// I², the part of the differences that is not chance: 0 to 1 (Higgins and Thompson 2002,
    /// Statistics in Medicine 21:1539).
    pub excess: f64,
}

/// Whether the effects of several days, or of other parts of the data that have no unit in common,
/// are the same: Cochran's test (1954, Biometrics 10:101). Days about which nothing is known are
/// left out; `None` when fewer than two are left. For one look.
pub fn stability(effects: &[Estimate]) -> Option<Stability> {
    let known = || effects.iter().filter(|effect| effect.is_known());
    let days = known().count();
    if days < 2 {
        return None;
    }
    let effect = pooled(effects);
    let off = |day: &Estimate| {
        let off = day.value - effect.value;
        off * off / day.variance
    };
    let statistic: f64 = known().map(off).sum();
    let degrees = (days - 1) as f64;
    Some(Stability {
        effect,
        statistic,
        p_value: chi_squared_upper(statistic, degrees),
        excess: if statistic > degrees { 1.0 - degrees / statistic } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[f64::NAN, 0.01]), [1.0, 0.02]);
        let day = |value, variance| Estimate { value, variance, units: 10 };
        assert_eq!(stability(&[]), None);
        assert_eq!(stability(&[day(1.0, 1.0), day(1.0, 0.0), day(f64::NAN, 1.0)]), None);
        let same = stability(&[day(1.0, 1.0), day(1.0, 0.0), day(1.0, 1.0)]).unwrap();
        assert_eq!(
            (same.statistic, same.p_value, same.excess, same.effect.units),
            (0.0, 1.0, 0.0, 20)
        );
    }
}
