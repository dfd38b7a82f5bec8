//! What can be an instruction at all.

use super::InputError;

/// The most bytes of an instruction. A checkpoint takes some 50 tokens of it, and chunks and diagnostics repeat it.
pub const MOST_INSTRUCTION_BYTES: usize = 8 << 10;

/// Checks that an instruction has something to read, and no more than anybody says.
///
/// # Errors
/// [`InputError::EmptyInstruction`], [`InputError::LongInstruction`].
pub fn check_instruction(text: &str) -> Result<(), InputError> {
    // Spaces without width count as nothing, too.
    let is_nothing = |character: char| {
        character.is_whitespace()
            || character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
    };
    if text.len() > MOST_INSTRUCTION_BYTES {
        return Err(InputError::LongInstruction { bytes: text.len() });
    }
    if text.chars().all(is_nothing) { Err(InputError::EmptyInstruction) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_read_is_empty() {
        for blank in ["", " \n\t", " \u{200b} ", "\u{feff}"] {
            assert!(matches!(check_instruction(blank), Err(InputError::EmptyInstruction)), "{blank:?}");
        }
    }

    #[test]
    fn an_instruction_of_several_kilobytes_is_taken_and_a_longer_one_is_not() {
        check_instruction(&"a".repeat(MOST_INSTRUCTION_BYTES)).unwrap();
        let error = check_instruction(&"a".repeat(MOST_INSTRUCTION_BYTES + 1)).unwrap_err().to_string();
        assert_eq!(error, "`instruction`: 8193 bytes, at most 8192 are taken: say it in fewer words");
    }
}
