//! Durations: a number with its unit, and the range of each field.

use std::time::Duration;

use bgp_proto::types::HoldTime;

use super::{Bad, Kind, Scalar};

pub(crate) const HOLD_TIME: Kind<HoldTime> = Kind {
    what: "a hold time",
    example: "9s",
    parse: |scalar| {
        let time = duration(scalar)?;
        let whole = (time.subsec_nanos() == 0).then_some(time.as_secs());
        match whole
            .and_then(|seconds| u16::try_from(seconds).ok())
            .and_then(HoldTime::new)
        {
            Some(hold) => Ok(hold),
            None => Bad::said(
                "is not allowed: hold time is 0 or 3s–65535s in whole seconds (RFC 4271 §4.2)",
                if time < Duration::from_secs(3) {
                    "use 9s for fast failure detection"
                } else {
                    "use 90s, or 9s for fast failure detection"
                },
            ),
        }
    },
};

/// Seconds; 0 for none (RFC 4724 §3 has 12 bits for it).
pub(crate) const RESTART_TIME: Kind<u16> = Kind {
    what: "a restart time",
    example: "120s",
    parse: |scalar| seconds(scalar, 4095, "0, or 1s to 4095s in whole seconds (RFC 4724 §3)"),
};

/// Seconds; 0 for none (RFC 9494 §3.1 has 24 bits for it).
pub(crate) const LONG_LIVED_TIME: Kind<u32> = Kind {
    what: "a stale time",
    example: "24h",
    parse: |scalar| {
        seconds(
            scalar,
            0x00FF_FFFF,
            "0, or 1s to 16777215s in whole seconds (RFC 9494 §3.1)",
        )
    },
};

/// Seconds that a part of a resilient group must be idle.
pub(crate) const IDLE_TIMER: Kind<u32> = Kind {
    what: "a time",
    example: "120s",
    parse: |scalar| seconds(scalar, 86_400, "0 to 24h in whole seconds"),
};

/// A pause of the operator's choice.
pub(crate) const PAUSE: Kind<Duration> = Kind {
    what: "a time",
    example: "5m",
    parse: |scalar| between(scalar, 0, 7 * 86_400_000, "0 to 168h"),
};

pub(crate) const BFD_INTERVAL: Kind<Duration> = Kind {
    what: "an interval",
    example: "100ms",
    parse: |scalar| between(scalar, 10, 60_000, "10ms to 60s"),
};

pub(crate) const DAMPENING_TIME: Kind<Duration> = Kind {
    what: "a time",
    example: "15s",
    parse: |scalar| between(scalar, 1000, 3_600_000, "1s to 1h"),
};

pub(crate) const RETRY_TIME: Kind<Duration> = Kind {
    what: "a time",
    example: "5s",
    parse: |scalar| between(scalar, 100, 3_600_000, "100ms to 1h"),
};

/// How long ADD waits for a pod's rules.
pub(crate) const POLICY_WAIT: Kind<Duration> = Kind {
    what: "a time",
    example: "1s",
    parse: |scalar| between(scalar, 0, 30_000, "0 to 30s"),
};

/// Whole seconds, at most `most`.
fn seconds<T: TryFrom<u64>>(scalar: Scalar<'_>, most: u64, range: &str) -> Result<T, Bad> {
    let time = duration(scalar)?;
    let whole = (time.subsec_nanos() == 0).then_some(time.as_secs());
    let fits = whole.filter(|seconds| *seconds <= most);
    fits.and_then(|seconds| T::try_from(seconds).ok())
        .ok_or_else(|| Bad::Range(range.to_owned()))
}

/// Milliseconds from the least to the most.
fn between(scalar: Scalar<'_>, least: u64, most: u64, range: &str) -> Result<Duration, Bad> {
    let time = duration(scalar)?;
    match (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&time) {
        true => Ok(time),
        false => Err(Bad::Range(range.to_owned())),
    }
}

/// `500ms`, `9s`, `2m`, `1h`; 0 needs no unit.
fn duration(scalar: Scalar<'_>) -> Result<Duration, Bad> {
    let text = scalar.text;
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(split).unwrap_or((text, ""));
    let Ok(number) = digits.parse::<u32>() else {
        return Err(Bad::Shape);
    };
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Bad::said("has no unit", format!("write {number}s, or ms, m or h")),
        _ => return Bad::said("has a unit that is not known", "use ms, s, m or h"),
    };
    Ok(Duration::from_millis(u64::from(number) * millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        Scalar { text, quoted: false }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("500ms", 500),
            ("9s", 9000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(plain(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "9", "9 s", "-1s", "1.5s", "9d", "99999999999s"] {
            assert!(duration(plain(text)).is_err(), "{text}");
        }
    }
}
