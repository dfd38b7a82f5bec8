//! What can be an instruction at all.

use super::InputError;

/// The most bytes of an instruction. A checkpoint takes some 50 tokens of it, and chunks and diagnostics repeat it.
pub const MOST_INSTRUCTION_BYTES: usize = 8 << 10;

/// Checks that an instruction has a letter or a digit, and no more than anybody says.
///
/// # Errors
/// [`InputError::EmptyInstruction`], [`InputError::LongInstruction`].
pub fn check_instruction(text: &str) -> Result<(), InputError> {
    if text.len() > MOST_INSTRUCTION_BYTES {
        return Err(InputError::LongInstruction { bytes: text.len() });
    }
    if text.chars().any(is_read) { Ok(()) } else { Err(InputError::EmptyInstruction) }
}

/// Whether a character is a letter or a digit. The four fillers of Hangul are letters by name and nothing to see.
fn is_read(character: char) -> bool {
    character.is_alphanumeric() && !matches!(character, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_read_is_empty() {
        for blank in [
            "",
            " \n\t",
            " \u{200b} ",
            "\u{feff}",
            "\u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{202e}",
            "\u{301}",
            "...",
            "👍",
        ] {
            assert!(matches!(check_instruction(blank), Err(InputError::EmptyInstruction)), "{blank:?}");
        }
    }

    #[test]
    fn letters_and_digits_of_any_script_are_read() {
        for text in ["go", "2", "積木を取れ", "잡아", "возьми"] {
            check_instruction(text).unwrap();
        }
    }

    #[test]
    fn an_instruction_of_several_kilobytes_is_taken_and_a_longer_one_is_not() {
        check_instruction(&"a".repeat(MOST_INSTRUCTION_BYTES)).unwrap();
        let error = check_instruction(&"a".repeat(MOST_INSTRUCTION_BYTES + 1)).unwrap_err().to_string();
        assert_eq!(error, "`instruction`: 8193 bytes, at most 8192 are taken: say it in fewer words");
    }
}
