//! Charts as SVG, readable on light and on dark ground.

use std::fmt::Write as _;

const LABELS: f64 = 170.0;
const BARS: f64 = 430.0;
const FIGURES: f64 = 130.0;
const ROW: f64 = 22.0;
const GAP: f64 = 14.0;
/// Told apart by people who see colours differently too, and on any ground.
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b5a800", "#888888"];

/// One horizontal bar of one or several parts.
pub(crate) struct Bar {
    pub(crate) label: String,
    /// Lengths, each in the colour of its index among the chart's names.
    pub(crate) parts: Vec<f64>,
    /// Written after it.
    pub(crate) figure: String,
    /// The index of the colour where there is one part.
    pub(crate) colour: usize,
}

/// Bars that belong together, on one scale from zero.
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// A chart with a title, the unit of its lengths, the names of its colours, and its groups, each
/// with a scale of its own.
pub(crate) fn bars(title: &str, unit: &str, names: &[&str], groups: &[Group]) -> String {
    let width = LABELS + BARS + FIGURES;
    let mut body = String::new();
    let mut y = 26.0;
    text(&mut body, 10.0, y, "title", title);
    y += 20.0;
    text(&mut body, 10.0, y, "small", unit);
    y += 14.0;
    let mut x = 10.0;
    for (name, colour) in names.iter().zip(COLOURS) {
        rectangle(&mut body, x, y, 12.0, 12.0, colour);
        text(&mut body, x + 17.0, y + 10.5, "small", name);
        x += 34.0 + 6.6 * name.chars().count() as f64;
    }
    y += 24.0;
    for group in groups {
        y += GAP;
        text(&mut body, 10.0, y, "group", &group.title);
        y += 10.0;
        let total = |bar: &Bar| bar.parts.iter().sum::<f64>();
        let step = step(group.bars.iter().map(total).fold(0.0, f64::max));
        let scale = BARS / (4.0 * step);
        let (top, bottom) = (y, y + ROW * group.bars.len() as f64);
        for tick in 0..=4 {
            let x = LABELS + scale * step * f64::from(tick);
            let _ = writeln!(
                body,
                r#"<line class="grid" x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}"/>"#
            );
            text(&mut body, x, bottom + 13.0, "tick", &number(step * f64::from(tick)));
        }
        for bar in &group.bars {
            text(&mut body, LABELS - 8.0, y + 15.0, "label", &bar.label);
            let mut x = LABELS;
            for (index, &part) in bar.parts.iter().enumerate() {
                let colour = if bar.parts.len() == 1 { bar.colour } else { index };
                rectangle(
                    &mut body,
                    x,
                    y + 4.0,
                    part * scale,
                    ROW - 8.0,
                    COLOURS[colour % COLOURS.len()],
                );
                x += part * scale;
            }
            text(&mut body, x + 6.0, y + 15.0, "small", &bar.figure);
            y += ROW;
        }
        y += 22.0;
    }
    frame(title, width, y, &body)
}

/// A line through points from the left to the right, over a scale from zero.
pub(crate) fn line(title: &str, unit: &str, points: &[(f64, f64)]) -> String {
    let (left, top, across, down) = (60.0, 70.0, 620.0, 220.0);
    let mut body = String::new();
    text(&mut body, 10.0, 26.0, "title", title);
    text(&mut body, 10.0, 46.0, "small", unit);
    let largest = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let [step_x, step_y] = [step(largest(|point| point.0)), step(largest(|point| point.1))];
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        let y = top + down * (1.0 - part);
        let _ = writeln!(
            body,
            r#"<line class="grid" x1="{left:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/>"#,
            left + across
        );
        text(&mut body, left - 8.0, y + 4.0, "label", &number(step_y * f64::from(tick)));
        let x = left + across * part;
        text(&mut body, x, top + down + 16.0, "tick", &number(step_x * f64::from(tick)));
    }
    let place = |&(x, y): &(f64, f64)| {
        let (x, y) = (x / (4.0 * step_x), y / (4.0 * step_y));
        format!("{:.1},{:.1}", left + across * x, top + down * (1.0 - y))
    };
    let path: Vec<_> = points.iter().map(place).collect();
    let _ = writeln!(
        body,
        r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>"#,
        path.join(" "),
        COLOURS[0]
    );
    frame(title, left + across + 40.0, top + down + 34.0, &body)
}

fn frame(title: &str, width: f64, height: f64, body: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img" aria-label="{title}">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #7d7d7d; }}
.title {{ font-size: 16px; font-weight: 600; }}
.group {{ font-weight: 600; }}
.label {{ text-anchor: end; }}
.tick {{ font-size: 10px; text-anchor: middle; }}
.grid {{ stroke: #999; stroke-width: 0.5; }}
</style>
{body}</svg>
"#,
        title = escaped(title)
    )
}

/// A quarter of the scale: 1, 2 or 5 times a power of ten, so that four reach `most`.
fn step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf((most / 4.0).log10().floor());
    let rounded = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    rounded.into_iter().find(|step| step * 4.0 >= most * 0.999).unwrap_or(power * 10.0)
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{}k", trimmed(value / 1000.0)) } else { trimmed(value) }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn text(body: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let content = escaped(content);
    let _ = writeln!(body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{content}</text>"#);
}

fn rectangle(body: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        body,
        r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_on_round_numbers() {
        for (most, expected) in
            [(0.0, 1.0), (1.0, 0.25), (4.0, 1.0), (4.1, 2.0), (93.0, 25.0), (61_000.0, 20_000.0)]
        {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [(0.0, "0"), (0.25, "0.25"), (20.0, "20"), (2500.0, "2.5k")] {
            assert_eq!(number(value), expected);
        }
    }
}
