//! A story as a picture: shares, errors, latency and rewards over time, with what was decided.

use super::span::Span;
use super::story::{Decision, Lies, Point, Story, Told};
use super::svg::{Drawing, colour, number, step};
use berth_plugin::Phase;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 96.0;
const GAP: f64 = 34.0;

/// Decisions and changes that are marked at most, each.
const MARKED: usize = 12;

/// Characters of a line of words.
const LINE: usize = 118;

/// What a panel shows of an arm at each point: a number, and where the truth lies.
type Shown = fn(&Told) -> Option<Lies>;

/// Draws it. `title` is the picture's.
pub fn draw(story: &Story, title: &str) -> String {
    let mut page = Page { drawing: Drawing::default(), story, y: 26.0, panels: 0 };
    page.drawing.text(10.0, page.y, "title", title);
    page.y += 20.0;
    page.drawing.text(10.0, page.y, "small", &summary(story));
    page.y += 14.0;
    page.legend();
    let (marked, left_out) = marked(story, MARKED);
    let top = page.y;
    page.shares();
    if story.unanswered > 0 {
        page.unanswered();
    }
    let percent = |rate: Lies| Lies {
        found: rate.found * 100.0,
        lower: rate.lower * 100.0,
        upper: rate.upper * 100.0,
    };
    page.panel("failed, %", true, |told| told.error_rate, percent);
    page.panel("latency, ms: 99 % within, and half (dotted)", true, |told| told.p99_ms, |ms| ms);
    if story.totals.iter().any(|told| told.rewards > 0) {
        page.panel("mean reward", false, |told| told.reward, |mean| mean);
    }
    if !story.estimates.is_empty() {
        page.estimates();
    }
    if story.totals.iter().any(|told| told.copies > 0) {
        page.panel("copies that agree, %", false, |told| told.agreement, percent);
    }
    page.time_axis();
    page.marks(top, &marked);
    page.words(&marked, left_out);
    let Page { drawing, y, .. } = page;
    drawing.finished(title, WIDTH, y + 8.0)
}

/// A story in a line.
pub fn summary(story: &Story) -> String {
    let span = |seconds: f64| Span((seconds * 1e6) as u64);
    let how = match &story.outcome {
        Some(ended) => format!("{} after {}", ended.outcome.word(), span(ended.at)),
        None if story.kind == "rollout" => "still under way at the end".to_owned(),
        None => match story.decisions.len() as u64 + story.left_out {
            1 => "decided once".to_owned(),
            times => format!("decided {times} times"),
        },
    };
    let unanswered = match story.unanswered {
        0 => String::new(),
        count => format!(", {count} of them found no revision ready"),
    };
    format!(
        "{} by {}: {how}. {} requests in {}{unanswered}, seed {}; bands are 95 % intervals",
        story.kind,
        story.policy,
        story.requests,
        span(story.seconds),
        story.seed
    )
}

/// The decisions that say most, `most` of them, in their order, and how many others there are. Where
/// there are more, none is soon after another.
pub fn marked(story: &Story, most: usize) -> (Vec<&Decision>, u64) {
    let decisions = &story.decisions;
    let weight = |at: usize| {
        let Some(before) = at.checked_sub(1).map(|at| &decisions[at]) else { return 10.0 };
        let moved = before.shares.iter().zip(&decisions[at].shares);
        let moved: f64 = moved.map(|(before, after)| (before - after).abs()).sum();
        let outcome = matches!(decisions[at].phase, Phase::Failed | Phase::Succeeded);
        moved + f64::from(u8::from(outcome)) * 10.0
    };
    let mut order: Vec<usize> = (0..decisions.len()).collect();
    order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)).then(a.cmp(&b)));
    let apart = match decisions.len() > most {
        true => story.seconds / (2.0 * most as f64),
        false => 0.0,
    };
    let mut chosen: Vec<&Decision> = Vec::new();
    for decision in order.into_iter().map(|at| &decisions[at]) {
        let near = chosen.iter().any(|other| (other.at - decision.at).abs() < apart);
        if !near && chosen.len() < most {
            chosen.push(decision);
        }
    }
    chosen.sort_by(|a, b| a.at.total_cmp(&b.at));
    let left_out = (decisions.len() - chosen.len()) as u64 + story.left_out;
    (chosen, left_out)
}

struct Page<'a> {
    drawing: Drawing,
    story: &'a Story,
    y: f64,
    panels: usize,
}

/// The scale of a panel's numbers, and where it is.
struct Scale {
    top: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn y(&self, value: f64) -> f64 {
        self.top + PANEL * (1.0 - (value - self.from) / (self.to - self.from))
    }
}

impl Page<'_> {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.story.seconds
    }

    fn legend(&mut self) {
        let mut x = 10.0;
        for (arm, name) in self.story.arms.iter().enumerate().take(12) {
            self.drawing.square(x, self.y, 12.0, colour(arm));
            self.drawing.text(x + 17.0, self.y + 10.5, "small", name);
            x += 34.0 + 6.6 * name.chars().count() as f64;
        }
        // Room for the marks' two rows.
        self.y += 82.0;
    }

    /// The ground of a panel, from a number to another.
    fn ground(&mut self, title: &str, from: f64, to: f64) -> (Scale, String) {
        let scale = Scale { top: self.y, from, to };
        self.drawing.text(LEFT, self.y - 6.0, "group", title);
        let each = step(to - from, 4.0);
        let mut tick = (from / each).ceil() * each;
        while tick <= to + each * 1e-6 {
            let y = scale.y(tick);
            self.drawing.line("grid", (LEFT, y), (WIDTH - RIGHT, y));
            self.drawing.text(LEFT - 8.0, y + 4.0, "label", &number(tick));
            tick += each;
        }
        let clip = format!("panel-{}", self.panels);
        self.drawing.clip(&clip, (LEFT, self.y - 1.0), WIDTH - LEFT - RIGHT, PANEL + 2.0);
        self.panels += 1;
        self.y += PANEL + GAP;
        (scale, clip)
    }

    /// The shares as they are in force, or where a router sees each request, what came of it.
    fn shares(&mut self) {
        let (scale, clip) = self.ground("share of requests, %", 0.0, 100.0);
        let Story { decisions, points, seconds, .. } = self.story;
        let came = |point: &Point, arm: usize| {
            let all: u64 = point.arms.iter().map(|told| told.requests).sum();
            point.arms[arm].requests as f64 / all.max(1) as f64
        };
        let ends = decisions.iter().skip(1).map(|next| next.at).chain([*seconds]);
        for arm in 0..self.story.arms.len() {
            // Of recorded predictions, what came is not of these shares.
            let by_request = self.story.by_request && self.story.estimates.is_empty();
            let aside = self.story.left_out + u64::from(self.story.by_request);
            let steps: Vec<(f64, f64, f64)> = match (by_request, aside) {
                (false, 0) => decisions
                    .iter()
                    .zip(ends.clone())
                    .map(|(decision, end)| (decision.at, end, decision.shares[arm]))
                    .collect(),
                (false, _) => points.iter().map(|it| (it.from, it.to, it.shares[arm])).collect(),
                (true, _) => points.iter().map(|it| (it.from, it.to, came(it, arm))).collect(),
            };
            let corners = steps.into_iter().flat_map(|(from, to, share)| {
                let y = scale.y(share * 100.0);
                [(self.x(from), y), (self.x(to), y)]
            });
            let corners: Vec<(f64, f64)> = corners.collect();
            self.drawing.polyline(&clip, &corners, colour(arm), false);
        }
    }

    /// Requests that found no arm ready.
    fn unanswered(&mut self) {
        let rate = |point: &Point| point.unanswered as f64 / (point.to - point.from);
        let points = &self.story.points;
        let most = points.iter().map(rate).fold(0.0, f64::max);
        let title = "requests a second that found no revision ready";
        let (scale, clip) = self.ground(title, 0.0, most * 1.1);
        let corners = points.iter().flat_map(|point| {
            let y = scale.y(rate(point));
            [(self.x(point.from), y), (self.x(point.to), y)]
        });
        let corners: Vec<(f64, f64)> = corners.collect();
        self.drawing.polyline(&clip, &corners, colour(7), false);
    }

    /// A number of each arm with its interval; where it begins at 0, from there.
    fn panel(&mut self, title: &str, from_zero: bool, shown: Shown, scaled: fn(Lies) -> Lies) {
        let points = &self.story.points;
        let all = || points.iter().flat_map(|point| &point.arms).filter_map(shown).map(scaled);
        let most = all().map(|lies| lies.found).fold(f64::MIN, f64::max);
        let least = all().map(|lies| lies.found).fold(f64::MAX, f64::min);
        let (from, to) = match from_zero {
            _ if most < least => (0.0, 1.0),
            true if most <= 0.0 => (0.0, all().map(|lies| lies.upper).fold(1e-3, f64::min)),
            true => (0.0, most * 1.4),
            false => {
                let room = ((most - least) * 0.25).max(most.abs() * 0.01).max(1e-6);
                (least - room, most + room)
            }
        };
        let (scale, clip) = self.ground(title, from, to);
        for arm in 0..self.story.arms.len() {
            let mut stretch = Vec::new();
            for point in points {
                match shown(&point.arms[arm]).map(scaled) {
                    Some(lies) => stretch.push((point, lies)),
                    None => self.stretch(&scale, &clip, arm, &std::mem::take(&mut stretch)),
                }
            }
            self.stretch(&scale, &clip, arm, &stretch);
        }
    }

    /// Mean rewards that are estimated, with their intervals.
    fn estimates(&mut self) {
        let estimates = &self.story.estimates;
        let found = || estimates.iter().flat_map(|(_, all)| all).flatten().map(|lies| lies.found);
        let (least, most) = (found().fold(f64::MAX, f64::min), found().fold(f64::MIN, f64::max));
        let room = ((most - least) * 0.25).max(most.abs() * 0.01).max(1e-6);
        let (from, to) = if most < least { (0.0, 1.0) } else { (least - room, most + room) };
        let names: Vec<&str> = estimates.iter().map(|(name, _)| name.as_str()).collect();
        let title = format!("mean reward: {}", names.join(" (solid), ") + " (dotted)");
        let (scale, clip) = self.ground(&title, from, to);
        for (at, (_, all)) in estimates.iter().enumerate() {
            let ink = colour(6 + at);
            let place = |number: fn(&Lies) -> f64| -> Vec<(f64, f64)> {
                let points = self.story.points.iter().zip(all);
                let place = |(point, lies): (&Point, &Option<Lies>)| {
                    let y = scale.y(number(lies.as_ref()?));
                    let y = y.clamp(scale.top - PANEL, scale.top + 2.0 * PANEL);
                    Some(((self.x(point.from) + self.x(point.to)) / 2.0, y))
                };
                points.filter_map(place).collect()
            };
            let bounds = [place(|lies| lies.upper), place(|lies| lies.lower)];
            let found = place(|lies| lies.found);
            self.drawing.band(&clip, &bounds[0], &bounds[1], ink);
            self.drawing.polyline(&clip, &found, ink, at > 0);
        }
    }

    /// One arm where it has numbers without a gap.
    fn stretch(&mut self, scale: &Scale, clip: &str, arm: usize, points: &[(&Point, Lies)]) {
        let line = |page: &Self, of: &dyn Fn(&Point, &Lies) -> f64| -> Vec<(f64, f64)> {
            let place = |(point, lies): &(&Point, Lies)| {
                // Bounds may be infinite.
                let y = scale.y(of(point, lies)).clamp(scale.top - PANEL, scale.top + 2.0 * PANEL);
                [(page.x(point.from), y), (page.x(point.to), y)]
            };
            match points {
                // What stands alone is as wide as it lasts.
                [one] => place(one).to_vec(),
                _ => points
                    .iter()
                    .map(|at| {
                        let [from, to] = place(at);
                        ((from.0 + to.0) / 2.0, from.1)
                    })
                    .collect(),
            }
        };
        if points.is_empty() {
            return;
        }
        let upper = line(self, &|_, lies| lies.upper);
        let lower = line(self, &|_, lies| lies.lower);
        let found = line(self, &|_, lies| lies.found);
        let latency = points.iter().any(|(point, lies)| point.arms[arm].p99_ms == Some(*lies));
        self.drawing.band(clip, &upper, &lower, colour(arm));
        self.drawing.polyline(clip, &found, colour(arm), false);
        if latency {
            let median = line(self, &|point, lies| point.arms[arm].median_ms.unwrap_or(lies.found));
            self.drawing.polyline(clip, &median, colour(arm), true);
        }
    }

    fn time_axis(&mut self) {
        const STEPS: [u64; 17] = [
            1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800,
            604_800, 2_592_000,
        ];
        let fits = |step: &&u64| self.story.seconds / **step as f64 <= 10.0;
        let step = STEPS.iter().find(fits).copied().unwrap_or(7_776_000);
        let y = self.y - GAP;
        self.drawing.line("axis", (LEFT, y), (WIDTH - RIGHT, y));
        let mut tick = 0;
        while tick as f64 <= self.story.seconds {
            let x = self.x(tick as f64);
            self.drawing.line("axis", (x, y), (x, y + 4.0));
            self.drawing.text(x, y + 17.0, "tick", &Span(tick * 1_000_000).to_string());
            tick += step;
        }
        self.drawing.text(LEFT, y + 32.0, "small", "time since the beginning");
    }

    /// What was decided and what was changed, over all panels from `top` on.
    fn marks(&mut self, top: f64, decisions: &[&Decision]) {
        let bottom = self.y - GAP;
        let mut last = [f64::MIN; 2];
        let decisions = decisions.iter().enumerate();
        let decisions = decisions.map(|(at, it)| (it.at, "decision", (at + 1).to_string()));
        let changes = self.story.changes.iter().enumerate().take(MARKED);
        let changes = changes.map(|(at, it)| (it.at, "change", letter(at)));
        let mut all: Vec<(f64, &str, String)> = decisions.chain(changes).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (at, class, name) in all {
            let x = self.x(at);
            // A row that is free, or the one that has been for longer.
            let row = (0..2).find(|&row| x - last[row] >= 18.0);
            let row = row.unwrap_or(usize::from(last[1] < last[0]));
            let beside = x.max(last[row] + 18.0);
            last[row] = beside;
            let y = top - 28.0 - 18.0 * row as f64;
            self.drawing.line(class, (x, top), (x, bottom));
            self.drawing.line(class, (beside, y + 8.0), (x, top));
            self.drawing.mark(beside, y, class == "decision", &name);
        }
        self.y += 20.0;
    }

    fn words(&mut self, decisions: &[&Decision], left_out: u64) {
        let span = |seconds: f64| Span((seconds * 1e6) as u64);
        for (at, change) in self.story.changes.iter().enumerate().take(MARKED) {
            self.word(false, &letter(at), &format!("{}: {}", span(change.at), change.what));
        }
        for (at, decision) in decisions.iter().enumerate() {
            let shares = shares(self.story, &decision.shares);
            let words = match (decision.message.as_str(), self.story.by_request) {
                ("", false) => format!("{}: {shares}", span(decision.at)),
                ("", true) => format!("{}: by each request", span(decision.at)),
                (said, false) => format!("{}, {shares}: {said}", span(decision.at)),
                (said, true) => format!("{}: {said}", span(decision.at)),
            };
            self.word(true, &(at + 1).to_string(), &words);
        }
        if left_out > 0 {
            let more = format!("and {left_out} more, smaller");
            self.drawing.text(LEFT - 38.0, self.y + 4.0, "small", &more);
            self.y += 20.0;
        }
    }

    fn word(&mut self, round: bool, name: &str, words: &str) {
        self.drawing.mark(22.0, self.y, round, name);
        for line in wrapped(words) {
            self.drawing.text(LEFT - 38.0, self.y + 4.0, "small", &line);
            self.y += 16.0;
        }
        self.y += 4.0;
    }
}

/// Shares in words: of two arms that of the second.
fn shares(story: &Story, shares: &[f64]) -> String {
    let part = |arm: usize| {
        format!("{} {} %", story.arms[arm], number((shares[arm] * 1e4).round() / 100.0))
    };
    match story.arms.len() {
        0..=2 => part(story.arms.len() - 1),
        arms => (0..arms.min(6)).map(part).collect::<Vec<_>>().join(", "),
    }
}

fn letter(at: usize) -> String {
    char::from(b'A' + (at % 26) as u8).to_string()
}

/// Words in lines.
fn wrapped(words: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        let full = |line: &String| line.chars().count() + 1 + word.chars().count() > LINE;
        if lines.last().is_some_and(|line| !line.is_empty() && full(line)) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
