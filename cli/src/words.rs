//! Numbers, durations, times and paths in words for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A duration with at most two units: `850ms`, `12s`, `3m 20s`, `2h 5m`, `4d 1h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds > 0.0 && seconds < 1.0 {
        return format!("{}ms", (seconds * 1000.0).round());
    }
    let whole = seconds.round().min(1e15) as u64;
    let unit = match whole {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    let (days, rest) = (whole / 86_400, Duration::from_secs(whole % 86_400 / unit * unit));
    match (days, rest.as_secs()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (days, 0) => format!("{days}d"),
        (days, _) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

/// A count in at most four characters and a metric prefix: `950`, `1.2k`, `37M`, `4.1P`.
pub fn count(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let mut scaled = value;
    for prefix in ["", "k", "M", "G", "T", "P", "E"] {
        if scaled.abs() < 999.5 {
            return match prefix {
                "" if scaled.fract() == 0.0 => format!("{scaled}"),
                _ if scaled.abs() < 9.95 => format!("{scaled:.1}{prefix}"),
                _ => format!("{scaled:.0}{prefix}"),
            };
        }
        scaled /= 1000.0;
    }
    format!("{value:.1e}")
}

/// A whole number with thin grouping for reading: `1 234 567`.
pub fn whole(value: u128) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes: `812 B`, `3.4 MiB`.
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return if unit == "B" { format!("{value} B") } else { format!("{scaled:.1} {unit}") };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

/// `1 trial`, `2 trials`.
pub fn plural(number: u64, word: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {word}{ending}", whole(u128::from(number)))
}

/// A time as RFC 3339 in UTC, from milliseconds since 1970.
pub fn time(unix_milliseconds: i64) -> String {
    let milliseconds = u64::try_from(unix_milliseconds).unwrap_or(0).min(253_402_300_799_000);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(milliseconds)).to_string()
}

/// How long ago a time was: `3m 20s ago`.
#[allow(clippy::disallowed_methods, reason = "for display")]
pub fn ago(unix_milliseconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    format!("{} ago", duration((now - unix_milliseconds as f64 / 1000.0).max(0.0).round()))
}

/// The first digits of an id, as people write them.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Text of foreign origin on one line: what could steer a terminal is escaped.
pub fn one_line(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character {
            '\n' | '\r' | '\t' => clean.push(' '),
            other if steers(other) => clean.extend(other.escape_unicode()),
            other => clean.push(other),
        }
    }
    clean
}

/// Text that may have several lines and holds words of foreign origin: all else that could steer a terminal is escaped.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => clean.push(character),
            other if steers(other) => clean.extend(other.escape_unicode()),
            other => clean.push(other),
        }
    }
    clean
}

/// Whether a character can steer a terminal or mislead its reader: control characters, and those that reorder or hide their neighbours: a name must look like what it is.
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let shown: Vec<String> =
            [0.0, 0.25, 1.0, 59.6, 200.0, 7_500.0, 86_400.0, 349_300.0].map(duration).into_iter().collect();
        assert_eq!(shown, ["0s", "250ms", "1s", "1m", "3m 20s", "2h 5m", "1d", "4d 1h"]);
        assert_eq!(duration(f64::NAN), "unknown");
        assert_eq!(duration(f64::INFINITY), "unknown");
    }

    #[test]
    fn counts_are_short() {
        let shown: Vec<String> =
            [0.0, 0.5, 7.0, 950.0, 999.6, 1_234.0, 37_000_000.0, 4.14e15, 9.96e18, 4e21].map(count).into();
        assert_eq!(shown, ["0", "0.5", "7", "950", "1.0k", "1.2k", "37M", "4.1P", "10E", "4.0e21"]);
        assert_eq!(whole(1_234_567), "1 234 567");
        assert_eq!(whole(1234), "1234");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(3_565_158), "3.4 MiB");
        assert_eq!(plural(1, "trial"), "1 trial");
        assert_eq!(plural(12_000, "trial"), "12 000 trials");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_000_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(time(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(time(i64::MIN), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn case_62_foreign_text_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc\n"), "a b\\u{1b}[2Jc");
        // An 8-bit escape, a change of direction, an invisible joiner: all that is left of them is their number.
        assert_eq!(
            one_line("a\u{9b}2Jb\u{202e}c\u{200d}\u{2028}d"),
            "a\\u{9b}2Jb\\u{202e}c\\u{200d}\\u{2028}d"
        );
        assert_eq!(printable("a\n\tb\r\u{1b}]0;x\u{7}é😀"), "a\n\tb\\u{d}\\u{1b}]0;x\\u{7}é😀");
    }
}
