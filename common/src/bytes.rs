//! Numbers of bytes as people write them.

/// Reads `512M`, `4 GB`, `1.5T`, or a plain number of bytes; units are powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let problem = || format!("`{}` is not a number of bytes: write e.g. 512M or 4G", text.escape_debug());
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let exponent = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return Err(problem()),
    };
    // One space may stand before a unit.
    let digits = if unit.is_empty() { digits } else { digits.strip_suffix(' ').unwrap_or(digits) };
    let number: f64 = digits.parse().map_err(|_| problem())?;
    let bytes = number * 1024_f64.powi(exponent);
    if bytes.is_finite() && (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(problem()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_are_read_with_their_units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("200 MB"), Ok(200 << 20));
        assert_eq!(parse("1.5G"), Ok(3 << 29));
        assert_eq!(parse("2GiB"), Ok(2 << 30));
        for wrong in ["", "G", "-1G", "0", "4X", "1e400", "NaN", "4  G", "4 ", "é"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
