//! Shapes of an SVG, readable on light and on dark ground, in fonts that every system has.

use std::fmt::Write as _;

/// Told apart by people who see colours differently too, and on any ground.
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b5a800", "#888888"];

/// The colour of an arm.
pub(super) fn colour(arm: usize) -> &'static str {
    COLOURS[arm % COLOURS.len()]
}

/// A drawing, shape by shape.
#[derive(Default)]
pub(super) struct Drawing(String);

impl Drawing {
    /// Text of a class: `title`, `small`, `label` (ends at `x`), `tick` or `mark` (in the middle).
    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, content: &str) {
        let content = escaped(content);
        let _ = writeln!(self.0, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{content}</text>"#);
    }

    /// A line of a class: `grid`, `axis`, `decision` or `change`.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.0,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(super) fn square(&mut self, x: f64, y: f64, size: f64, fill: &str) {
        let _ = writeln!(
            self.0,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{size:.1}" height="{size:.1}" fill="{fill}"/>"#
        );
    }

    /// What a mark's letters or digits stand in; round for a decision.
    pub(super) fn mark(&mut self, x: f64, y: f64, round: bool, content: &str) {
        let radius = if round { 8.0 } else { 2.0 };
        let _ = writeln!(
            self.0,
            r#"<rect class="mark" x="{:.1}" y="{:.1}" width="16" height="16" rx="{radius}"/>"#,
            x - 8.0,
            y - 8.0
        );
        self.text(x, y + 3.7, "on-mark", content);
    }

    /// A line through points, within the clip of this name.
    pub(super) fn polyline(
        &mut self,
        clip: &str,
        points: &[(f64, f64)],
        stroke: &str,
        dashed: bool,
    ) {
        let dash = if dashed { r#" stroke-dasharray="2 3""# } else { "" };
        let _ = writeln!(
            self.0,
            r#"<polyline clip-path="url(#{clip})" points="{}" fill="none" stroke="{stroke}" stroke-width="1.6"{dash}/>"#,
            joined(points)
        );
    }

    /// The ground between an upper and a lower line.
    pub(super) fn band(
        &mut self,
        clip: &str,
        upper: &[(f64, f64)],
        lower: &[(f64, f64)],
        fill: &str,
    ) {
        let around: Vec<(f64, f64)> = upper.iter().chain(lower.iter().rev()).copied().collect();
        let _ = writeln!(
            self.0,
            r#"<polygon clip-path="url(#{clip})" points="{}" fill="{fill}" fill-opacity="0.18"/>"#,
            joined(&around)
        );
    }

    /// Defines a clip: what is drawn within it ends at its edges.
    pub(super) fn clip(&mut self, name: &str, (x, y): (f64, f64), width: f64, height: f64) {
        let _ = writeln!(
            self.0,
            r#"<clipPath id="{name}"><rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/></clipPath>"#
        );
    }

    /// The whole document.
    pub(super) fn finished(self, title: &str, width: f64, height: f64) -> String {
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img" aria-label="{title}">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #7d7d7d; }}
.title {{ font-size: 16px; font-weight: 600; }}
.group {{ font-weight: 600; }}
.label {{ text-anchor: end; font-size: 11px; }}
.tick {{ text-anchor: middle; font-size: 11px; }}
.on-mark {{ text-anchor: middle; font-size: 10px; font-weight: 600; fill: #fff; }}
.mark {{ fill: #6b6b6b; }}
.grid {{ stroke: #999; stroke-width: 0.4; }}
.axis {{ stroke: #999; stroke-width: 1; }}
.decision {{ stroke: #888; stroke-width: 0.7; }}
.change {{ stroke: #888; stroke-width: 1; stroke-dasharray: 4 3; }}
</style>
{body}</svg>
"##,
            title = escaped(title),
            body = self.0
        )
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    places.join(" ")
}

fn escaped(text: &str) -> String {
    // What XML has no way to write comes from a policy's message.
    let text = text.replace(|c: char| c.is_control(), " ");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A step of 1, 2, 2.5 or 5 times a power of ten, of which at most `parts` reach over `range`.
pub(super) fn step(range: f64, parts: f64) -> f64 {
    if !(range > 0.0 && range.is_finite()) {
        return 1.0;
    }
    let power = libm::pow(10.0, libm::floor(libm::log10(range / parts)));
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| step * parts >= range * 0.999).unwrap_or(power * 10.0)
}

/// A number in a few digits.
pub(super) fn number(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        return format!("{}k", number(value / 1000.0));
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach() {
        for (range, parts, expected) in [
            (1.0, 4.0, 0.25),
            (0.037, 4.0, 0.01),
            (93.0, 4.0, 25.0),
            (0.0, 4.0, 1.0),
            (4.1, 4.0, 2.0),
        ] {
            let step = step(range, parts);
            assert!((step - expected).abs() < 1e-12 * expected, "{range}: {step}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.25, "0.25"),
            (20.0, "20"),
            (25_000.0, "25k"),
            (0.0005, "0.0005"),
            (0.123_456, "0.1235"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn what_a_policy_says_is_text() {
        let mut drawing = Drawing::default();
        drawing.text(0.0, 0.0, "small", "<script>\u{1b}\"&");
        let svg = drawing.finished("a \"b\"", 1.0, 1.0);
        assert!(
            svg.contains("&lt;script&gt; &quot;&amp;</text>") && svg.contains("a &quot;b&quot;")
        );
    }
}
