//! What a file holds instead of what its name promises, told by its first bytes, and text that can be shown anywhere.

use std::borrow::Cow;

/// How many first bytes of a file [`check_content`] looks at.
pub const PROBE_BYTES: usize = 512;

/// How checkpoints are fetched whole.
const FETCH: &str = "`git lfs pull` in its folder, or `hf download`, fetches the file itself";

/// Checks that the first bytes of a file are not those of a placeholder: an empty file, a Git LFS pointer, an HTML page
/// or zeros where a download has not arrived.
///
/// # Errors
/// What the file is, and how to get the file that it stands for.
pub fn check_content(bytes: &[u8]) -> Result<(), String> {
    let start = bytes.get(..PROBE_BYTES).unwrap_or(bytes);
    let text = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let found = if start.is_empty() {
        "empty: truncated, or never downloaded"
    } else if text.starts_with("version https://git-lfs.github.com/spec/") {
        "a Git LFS pointer, not the file that it stands for"
    } else if ["<!doctype html", "<html", "<head"].iter().any(|tag| text.starts_with(tag)) {
        "an HTML page, as a server sends in place of a file that needs a login or is not there"
    } else if start.iter().take(16).all(|byte| *byte == 0) {
        "nothing but zeros at its start: a download that is damaged or not finished"
    } else {
        return Ok(());
    };
    Err(format!("{found}: {FETCH}"))
}

/// `text` with its control characters escaped, line ends and tabs excepted.
///
/// Errors quote what files hold, and files may hold anything. A NUL cannot be part of a ROS message, other control
/// characters would steer the terminal, and those that turn the direction of writing show something else than is there.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_hidden(character) && !matches!(character, '\n' | '\t'))
}

/// `text` as [`printable`] shows it, with line ends and tabs escaped, too: what is quoted cannot look like a line of its own.
pub fn in_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

fn is_hidden(character: char) -> bool {
    let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || turns || matches!(character, '\u{2028}' | '\u{2029}')
}

fn escaped(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_place_of_a_file_is_told_with_a_way_to_get_the_file() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3519381272\n";
        for (bytes, expected) in [
            (pointer.as_bytes(), "a Git LFS pointer"),
            (b"\n<!DOCTYPE HTML><html>", "an HTML page"),
            (b"\xef\xbb\xbf<html lang=en>", "an HTML page"),
            (b"", "empty"),
            (&[0; 4096], "nothing but zeros"),
            (b"\0", "nothing but zeros"),
        ] {
            let fault = check_content(bytes).unwrap_err();
            assert!(fault.starts_with(expected) && fault.contains("git lfs pull"), "{fault}");
        }
    }

    #[test]
    fn files_that_are_what_they_should_be_pass() {
        let safetensors = [8u64.to_le_bytes().as_slice(), b"{\"a\":{}}"].concat();
        for bytes in [safetensors.as_slice(), b"{}", b"PK\x03\x04", b" {\"version\": \"1.0\"}"] {
            assert_eq!(check_content(bytes), Ok(()));
        }
    }

    #[test]
    fn characters_that_turn_the_direction_of_writing_are_escaped() {
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a\\u{202e}b\\u{2066}c");
    }

    #[test]
    fn what_is_quoted_in_one_line_has_no_line_of_its_own() {
        assert_eq!(in_one_line("go\n[ERROR] lies\u{2028}"), "go\\n[ERROR] lies\\u{2028}");
    }

    #[test]
    fn control_characters_are_escaped_and_lines_stay() {
        assert_eq!(printable("a\0b\u{1b}[2J\n\tc"), "a\\u{0}b\\u{1b}[2J\n\tc");
        assert!(matches!(printable("plain ü"), Cow::Borrowed("plain ü")));
    }
}
