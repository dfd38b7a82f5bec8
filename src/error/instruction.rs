//! What can be an instruction at all.

use super::InputError;

/// The most bytes of an instruction. A checkpoint takes some 50 tokens of it, and chunks and diagnostics repeat it.
pub const MOST_INSTRUCTION_BYTES: usize = 8 << 10;

/// Checks that an instruction has something to read, and no more than anybody says.
///
/// # Errors
/// [`InputError::EmptyInstruction`], [`InputError::LongInstruction`].
pub fn check_instruction(text: &str) -> Result<(), InputError> {
    if text.len() > MOST_INSTRUCTION_BYTES {
        return Err(InputError::LongInstruction { bytes: text.len() });
    }
    if text.chars().all(is_nothing) { Err(InputError::EmptyInstruction) } else { Ok(()) }
}

/// Whether a character leaves nothing to read: spaces, also those without width, fillers, blanks, and what only changes other
/// characters (Unicode's Default_Ignorable_Code_Point, and marks for letters that are not there).
fn is_nothing(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{300}'..='\u{36f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_read_is_empty() {
        let blanks = [
            "",
            " \n\t",
            " \u{200b} ",
            "\u{feff}",
            "\u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{202e}",
            "\u{301}",
            "\u{e0020}",
        ];
        for blank in blanks {
            assert!(matches!(check_instruction(blank), Err(InputError::EmptyInstruction)), "{blank:?}");
        }
    }

    #[test]
    fn letters_of_any_script_digits_and_signs_are_read() {
        for text in ["go", "2", "積木を取れ", "잡아", "возьми", "$%^&*()", "?"] {
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
