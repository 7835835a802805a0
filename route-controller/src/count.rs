//! Numbers in messages: "1 peer", "2 peers".

/// A number with a noun; `noun` is the singular of a noun whose plural ends with s or, after s or x, with es.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = match number {
        1 => "",
        _ if noun.ends_with(['s', 'x']) => "es",
        _ => "s",
    };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn one_is_singular() {
        assert_eq!(count(1, "peer"), "1 peer");
        assert_eq!(count(0, "peer"), "0 peers");
        assert_eq!(count(2, "address"), "2 addresses");
        assert_eq!(count(2, "prefix"), "2 prefixes");
    }
}
