//! Calendar dates in UTC.

/// `2026-11-22` for seconds since 1970.
pub(super) fn day(secs: i64) -> String {
    let (year, month, day) = civil(secs.div_euclid(86_400));
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-22 19:05 UTC`.
pub(super) fn minute(secs: i64) -> String {
    let of_day = secs.rem_euclid(86_400);
    format!("{} {:02}:{:02} UTC", day(secs), of_day / 3_600, of_day % 3_600 / 60)
}

/// Days since 1970 to year, month, day in the proleptic Gregorian calendar (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days.clamp(-700_000_000, 700_000_000) + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (secs, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_374_300, "2026-11-22 19:05 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
        ] {
            assert_eq!(minute(secs), text);
        }
        let _ = minute(i64::MIN);
        let _ = minute(i64::MAX);
    }
}
