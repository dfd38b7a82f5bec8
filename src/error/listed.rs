//! Long lists and long names in one line.

use std::borrow::Cow;

/// The beginning of a text of more than `most` characters, with a sign that there was more.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
    }
}

/// The most characters of a name in a list.
const OF_A_NAME: usize = 80;

/// The first `shown` of `names` and how many more there are, or `none`. Long names are shortened.
pub fn listed<N: AsRef<str>>(names: &[N], shown: usize) -> String {
    let named = names.iter().take(shown).map(|name| shortened(name.as_ref(), OF_A_NAME)).collect::<Vec<_>>().join(", ");
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
    fn a_text_is_shortened_between_characters_and_only_if_it_is_longer() {
        assert_eq!(["äöü", "äöüß"].map(|text| shortened(text, 3).into_owned()), ["äöü", "äöü…"]);
    }

    #[test]
    fn a_name_of_megabytes_is_shortened() {
        assert_eq!(listed(&["j".repeat(2_000_000)], 3).chars().count(), 81);
    }

    #[test]
    fn the_first_names_are_told_and_how_many_more() {
        let names = ["a", "b", "c"];
        assert_eq!(
            [listed(&names, 2), listed(&names, 3), listed(&names[..0], 2)],
            ["a, b and 1 more", "a, b, c", "none"]
        );
    }
}
