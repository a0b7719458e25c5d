//! Distributions, as far as the tests need them.
//!
//! The incomplete beta function is why they are not a crate's: statrs 0.18 ends its continued
//! fraction after 140 turns, and has −0.55 for the half that it is at 5·10⁷ successes and failures.
//! They come to the same bits natively and in a component: logarithms and exponentials are libm's.

use std::f64::consts::{SQRT_2, TAU};

use libm::{erfc, exp, lgamma, log, log1p};

/// More turns than a continued fraction or series takes for counts up to 10⁹.
const TURNS: u32 = 200_000;

/// P(Z ≤ x) of a standard normal Z.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// The x with P(Z ≤ x) = p; infinite for 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        -normal_quantile(1.0 - p)
    } else if p >= 0.0 {
        if p == 0.0 { f64::NEG_INFINITY } else { turn(-40.0, 0.0, |x| normal_cdf(x) < p) }
    } else {
        f64::NAN
    }
}

/// P(|T| ≥ |t|) of Student's T with that many degrees of freedom.
pub fn student_two_sided(t: f64, degrees: f64) -> f64 {
    beta_cdf(0.5 * degrees, 0.5, degrees / (degrees + t * t))
}

/// The t with P(|T| ≥ t) = alpha.
pub fn student_critical(alpha: f64, degrees: f64) -> f64 {
    let mut most = 2.0;
    while student_two_sided(most, degrees) > alpha && most < 1e300 {
        most *= most;
    }
    turn(0.0, most, |t| student_two_sided(t, degrees) > alpha)
}

/// P(X ≥ x) of chi-squared with that many degrees of freedom: the upper incomplete gamma function,
/// regularised (Press and others, Numerical Recipes, section 6.2).
pub fn chi_squared_upper(x: f64, degrees: f64) -> f64 {
    let (a, x) = (0.5 * degrees, 0.5 * x);
    if x.is_nan() || a.is_nan() || a <= 0.0 {
        return f64::NAN;
    }
    if x <= 0.0 {
        return 1.0;
    }
    let front = exp(a * log(x) - x - lgamma(a));
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for turn in 1..TURNS {
            term *= x / (a + f64::from(turn));
            sum += term;
            if term < sum * f64::EPSILON {
                break;
            }
        }
        return 1.0 - front * sum;
    }
    let mut fraction = Fraction::new(x + 1.0 - a);
    for turn in 1..TURNS {
        let turn = f64::from(turn);
        if fraction.step(-turn * (turn - a), x + 1.0 - a + 2.0 * turn) {
            break;
        }
    }
    front / fraction.value
}

/// P(X ≤ x) of Beta(a, b), the incomplete beta function, regularised: a continued fraction (Press
/// and others, Numerical Recipes, section 6.4).
pub fn beta_cdf(a: f64, b: f64, x: f64) -> f64 {
    if a.is_nan() || a <= 0.0 || b.is_nan() || b <= 0.0 || x.is_nan() {
        f64::NAN
    } else if x <= 0.0 {
        0.0
    } else if x >= 1.0 {
        1.0
    } else if x <= (a + 1.0) / (a + b + 2.0) {
        lower_beta(a, b, x)
    } else {
        1.0 - lower_beta(b, a, 1.0 - x)
    }
}

/// The x with P(X ≤ x) = p of Beta(a, b).
pub fn beta_quantile(a: f64, b: f64, p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    turn(0.0, 1.0, |x| beta_cdf(a, b, x) < p)
}

/// ln B(a, b).
pub fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if large < 10.0 {
        return lgamma(a) + lgamma(b) - lgamma(a + b);
    }
    // ln Γ(large) − ln Γ(a + b), of which nearly everything cancels out.
    let less = -(large - 0.5) * log1p(small / large) - small * log(a + b) + small;
    lgamma(small) + less + stirling(large) - stirling(a + b)
}

/// What Stirling's formula lacks of ln Γ(z), for z of 10 or more.
fn stirling(z: f64) -> f64 {
    let z2 = z * z;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * z2)) / z2) / z2) / z
}

/// ln of xᵃ (1 − x)ᵇ / B(a, b). Of many counts the terms are large and nearly cancel out, so these
/// are taken by their distance from the mean.
fn ln_front(a: f64, b: f64, x: f64) -> f64 {
    if a < 10.0 || b < 10.0 {
        return a * log(x) + b * log1p(-x) - ln_beta(a, b);
    }
    let off = x * (a + b) - a;
    let by_mean = |off: f64, part: f64, x: f64| {
        let near = off.abs() < 0.5 * part;
        part * if near { log1p(off / part) } else { log(x * (a + b) / part) }
    };
    by_mean(off, a, x)
        + by_mean(-off, b, 1.0 - x)
        + 0.5 * log(a / TAU * (b / (a + b)))
        + stirling(a + b)
        - stirling(a)
        - stirling(b)
}

/// Converges where x is at most about the mean.
fn lower_beta(a: f64, b: f64, x: f64) -> f64 {
    let front = exp(ln_front(a, b, x)) / a;
    let mut fraction = Fraction::new(1.0);
    for turn in 0..TURNS {
        let m = f64::from(turn);
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let next = m + 1.0;
        let even = next * (b - next) * x / ((a + 2.0 * next - 1.0) * (a + 2.0 * next));
        fraction.step(odd, 1.0);
        if fraction.step(even, 1.0) {
            break;
        }
    }
    front / fraction.value
}

/// b₀ + a₁/(b₁ + a₂/(b₂ + …)), from the front (Lentz's method).
struct Fraction {
    value: f64,
    c: f64,
    d: f64,
}

impl Fraction {
    /// Stands for 0 in a denominator.
    const TINY: f64 = 1e-300;

    fn new(first: f64) -> Self {
        let first = if first == 0.0 { Self::TINY } else { first };
        Self { value: first, c: first, d: 0.0 }
    }

    /// Takes the next pair, and answers whether it changed nothing.
    fn step(&mut self, a: f64, b: f64) -> bool {
        let not_zero = |value: f64| if value.abs() < Self::TINY { Self::TINY } else { value };
        self.d = 1.0 / not_zero(b + a * self.d);
        self.c = not_zero(b + a / self.c);
        let change = self.c * self.d;
        self.value *= change;
        (change - 1.0).abs() <= f64::EPSILON
    }
}

/// Where a question that is answered yes at `low` turns to no, towards `high`.
pub(crate) fn turn(mut low: f64, mut high: f64, yes: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..128 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if yes(middle) { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
