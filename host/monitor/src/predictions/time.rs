//! Times in UTC, as they are shown and asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 as UTC, such as `2026-11-21T19:05:07.123Z`.
pub fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// The hour that a time is in, such as `2026-11-21T19`: what its files' names begin with.
pub(crate) fn hour(ms: u64) -> String {
    let mut utc = utc(ms);
    utc.truncate(13);
    utc
}

/// A time as it is asked for, in milliseconds since 1970: `90m` ago, or `s`, `h`, `d`, `w`; or a date, or
/// with hours, minutes and seconds, such as `2026-11-21T19:05`, in UTC.
pub fn parse_time(text: &str, now_ms: u64) -> Option<u64> {
    if let Some(ago) = parse_span(text) {
        return Some(now_ms.saturating_sub(ago));
    }
    let text = text.trim_end_matches('Z');
    let (date, of_day) = text.split_once(['T', ' ']).unwrap_or((text, "0"));
    let numbers = |text: &str, by: char| {
        let parts = text.split(by).map(|part| match part.bytes().all(|c| c.is_ascii_digit()) {
            true => part.parse::<u64>().ok(),
            false => None,
        });
        parts.collect::<Option<Vec<u64>>>()
    };
    let date = numbers(date, '-')?;
    let [year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = date[..] else { return None };
    let of_day = numbers(of_day.split('.').next().unwrap_or_default(), ':')?;
    if of_day.len() > 3 {
        return None;
    }
    let part = |at: usize| of_day.get(at).copied().unwrap_or(0);
    let (hours, minutes, seconds) = (part(0), part(1), part(2));
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    Some((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000)
}

/// A span such as `90m`, in milliseconds.
pub fn parse_span(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(unit * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_254_407_999, "2026-11-21T09:46:47.999Z"),
        ] {
            assert_eq!(utc(ms), expected);
            assert_eq!(parse_time(expected, 0), Some(ms / 1000 * 1000));
        }
    }

    #[test]
    fn times_are_asked_for_as_spans_and_dates() {
        let day = 86_400_000;
        for (text, expected) in [
            ("90m", Some(100 * day - 5_400_000)),
            ("2d", Some(98 * day)),
            ("1970-01-03", Some(2 * day)),
            ("1970-01-03T01", Some(2 * day + 3_600_000)),
            ("1970-01-03 01:02:03Z", Some(2 * day + 3_723_000)),
            ("1970-13-03", None),
            ("1970-01-03T24", None),
            ("yesterday", None),
            ("d", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text, 100 * day), expected, "{text}");
        }
    }
}
