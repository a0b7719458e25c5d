//! Floating-point numbers of 8 bits, as ONNX has them: a sign, an exponent, a mantissa.

/// Where the bits of such a number lie, and which of its codes are no finite numbers.
#[derive(Clone, Copy)]
pub(crate) struct Float8 {
    /// Bits of the mantissa.
    mantissa: u32,
    /// What is taken from the exponent as written.
    bias: i32,
    /// The code of the largest number.
    largest: u8,
    /// What comes right after it; the codes beyond are no numbers.
    beyond: f64,
}

impl Float8 {
    pub(crate) const E4M3FN: Self = Self { mantissa: 3, bias: 7, largest: 0x7e, beyond: f64::NAN };
    pub(crate) const E4M3FNUZ: Self = Self { bias: 8, largest: 0x7f, ..Self::E4M3FN };
    pub(crate) const E5M2: Self =
        Self { mantissa: 2, bias: 15, largest: 0x7b, beyond: f64::INFINITY };
    pub(crate) const E5M2FNUZ: Self =
        Self { mantissa: 2, bias: 16, largest: 0x7f, beyond: f64::NAN };

    /// The only code that is no number, where all others are finite: that of a negative zero.
    fn only_nan(self) -> Option<u8> {
        (self.largest == 0x7f).then_some(SIGN)
    }

    /// The number that a code stands for.
    pub(crate) fn number(self, code: u8) -> f64 {
        if self.only_nan() == Some(code) {
            return f64::NAN;
        }
        let magnitude = code & !SIGN;
        let (exponent, fraction) = (magnitude >> self.mantissa, magnitude & !(!0 << self.mantissa));
        let number = match magnitude {
            _ if magnitude == self.largest + 1 => self.beyond,
            _ if magnitude > self.largest => f64::NAN,
            _ if exponent == 0 => f64::from(fraction) * self.step(1 - self.bias),
            _ => {
                let whole = f64::from(fraction | 1 << self.mantissa);
                whole * self.step(i32::from(exponent) - self.bias)
            }
        };
        if code & SIGN == 0 { number } else { -number }
    }

    /// The code of the number nearest to it, and of two the even one. One that rounds to more than the
    /// largest is infinite, or no number where there is no infinity.
    pub(crate) fn code(self, number: f64) -> u8 {
        let sign = if number.is_sign_negative() { SIGN } else { 0 };
        if number.is_nan() {
            return self.only_nan().unwrap_or(sign | !SIGN);
        }
        // Codes of positive numbers go up by one from each to the next.
        let exponent = (number.abs().to_bits() >> 52) as i32 - 1023;
        let exponent = exponent.max(1 - self.bias);
        let steps = (number.abs() / self.step(exponent)).round_ties_even() as u32;
        let below = ((exponent + self.bias - 1) as u32) << self.mantissa;
        match (below.saturating_add(steps), self.only_nan()) {
            (0, Some(_)) => 0,
            (code, Some(nan)) if code > self.largest.into() => nan,
            (code, _) => sign | code.min(u32::from(self.largest) + 1) as u8,
        }
    }

    /// How far numbers of that exponent are apart.
    fn step(self, exponent: i32) -> f64 {
        2f64.powi(exponent - self.mantissa as i32)
    }
}

const SIGN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    /// Facts of "Float stored in 8 bits" in ONNX's documentation, and neighbours of them.
    #[test]
    fn codes_stand_for_the_numbers_of_the_standard() {
        let [e4m3fn, e4m3fnuz] = [Float8::E4M3FN, Float8::E4M3FNUZ];
        let [e5m2, e5m2fnuz] = [Float8::E5M2, Float8::E5M2FNUZ];
        for (kind, facts) in [
            (
                e4m3fn,
                &[
                    (0x00, 0.0),
                    (0x80, -0.0),
                    (0x01, 0.001_953_125),
                    (0x07, 0.013_671_875),
                    (0x08, 0.015_625),
                    (0x30, 0.5),
                    (0x38, 1.0),
                    (0x39, 1.125),
                    (0xbc, -1.5),
                    (0x7e, 448.0),
                    (0xfe, -448.0),
                    (0x7f, NAN),
                    (0xff, NAN),
                ][..],
            ),
            (
                e4m3fnuz,
                &[
                    (0x00, 0.0),
                    (0x80, NAN),
                    (0x01, 0.000_976_562_5),
                    (0x07, 0.006_835_937_5),
                    (0x08, 0.007_812_5),
                    (0x38, 0.5),
                    (0x40, 1.0),
                    (0xc4, -1.5),
                    (0x7f, 240.0),
                    (0xff, -240.0),
                ],
            ),
            (
                e5m2,
                &[
                    (0x00, 0.0),
                    (0x80, -0.0),
                    (0x01, 0.000_015_258_789_062_5),
                    (0x03, 0.000_045_776_367_187_5),
                    (0x04, 0.000_061_035_156_25),
                    (0x38, 0.5),
                    (0x3c, 1.0),
                    (0xbe, -1.5),
                    (0x7b, 57344.0),
                    (0x7c, INF),
                    (0xfc, -INF),
                    (0x7d, NAN),
                    (0x7f, NAN),
                    (0xff, NAN),
                ],
            ),
            (
                e5m2fnuz,
                &[
                    (0x00, 0.0),
                    (0x80, NAN),
                    (0x01, 0.000_007_629_394_531_25),
                    (0x03, 0.000_022_888_183_593_75),
                    (0x04, 0.000_030_517_578_125),
                    (0x3c, 0.5),
                    (0x40, 1.0),
                    (0xc2, -1.5),
                    (0x7f, 57344.0),
                    (0xff, -57344.0),
                ],
            ),
        ] {
            for &(code, expected) in facts {
                let number = kind.number(code);
                assert_eq!(number.is_nan(), expected.is_nan(), "{code:#x}: {number}");
                if !number.is_nan() {
                    assert_eq!(number.to_bits(), expected.to_bits(), "{code:#x}: {number}");
                }
            }
            let codes = (0..=kind.largest).map(|code| kind.number(code));
            assert!(codes.is_sorted_by(|one, next| one < next));
            for code in 0..=u8::MAX {
                let (number, again) = (kind.number(code), kind.code(kind.number(code)));
                assert!(
                    again == code || number.is_nan() && kind.number(again).is_nan(),
                    "{code:#x}"
                );
            }
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        for (number, expected) in [
            // E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ.
            (1.0, [0x38, 0x40, 0x3c, 0x40]),
            // Half-way: to the even one.
            (1.0625, [0x38, 0x40, 0x3c, 0x40]),
            (1.1875, [0x3a, 0x42, 0x3d, 0x41]),
            (-1.125, [0xb9, 0xc1, 0xbc, 0xc0]),
            (1.99, [0x40, 0x48, 0x40, 0x44]),
            (0.001, [0x01, 0x01, 0x14, 0x18]),
            (-1e-9, [0x80, 0x00, 0x80, 0x00]),
            (-0.0, [0x80, 0x00, 0x80, 0x00]),
            (f64::MIN_POSITIVE / 4.0, [0, 0, 0, 0]),
            (247.9, [0x77, 0x7f, 0x5c, 0x60]),
            (248.0, [0x78, 0x80, 0x5c, 0x60]),
            (-463.9, [0xfe, 0x80, 0xdf, 0xe3]),
            (464.0, [0x7e, 0x80, 0x5f, 0x63]),
            (464.1, [0x7f, 0x80, 0x5f, 0x63]),
            (61439.0, [0x7f, 0x80, 0x7b, 0x7f]),
            (-61440.0, [0xff, 0x80, 0xfc, 0x80]),
            (f64::MAX, [0x7f, 0x80, 0x7c, 0x80]),
            (-INF, [0xff, 0x80, 0xfc, 0x80]),
            (NAN, [0x7f, 0x80, 0x7f, 0x80]),
        ] {
            let kinds = [Float8::E4M3FN, Float8::E4M3FNUZ, Float8::E5M2, Float8::E5M2FNUZ];
            assert_eq!(kinds.map(|kind| kind.code(number)), expected, "{number}");
        }
    }
}
