//! Numbers in messages: "1 peer", "2 peers".

/// A number with a noun, given in the singular; its plural is regular: peers, addresses, policies.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None if noun.ends_with(['s', 'x']) => format!("{number} {noun}es"),
        None => format!("{number} {noun}s"),
    }
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
        assert_eq!(
            (count(1, "policy"), count(2, "policy")),
            ("1 policy".to_owned(), "2 policies".to_owned())
        );
    }
}
