//! Long lists in one line.

/// The first `shown` of `names` and how many more there are, or `none`.
pub fn listed<N: AsRef<str>>(names: &[N], shown: usize) -> String {
    let named = names.iter().take(shown).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(shown) {
        _ if names.is_empty() => "none".to_owned(),
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_are_told_and_how_many_more() {
        let names = ["a", "b", "c"];
        assert_eq!(
            [listed(&names, 2), listed(&names, 3), listed(&names[..0], 2)],
            ["a, b and 1 more", "a, b, c", "none"]
        );
    }
}
