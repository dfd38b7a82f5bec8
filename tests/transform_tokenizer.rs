//! Instructions become the tokens that Hugging Face's tokenizers make of them, for the same `tokenizer.json`.
//!
//! `tests/fixtures/tokenizer` holds two states of one tokenizer (as trained, and as saved by somebody who
//! used it with other padding and truncation) and the ids transformers gave for awkward sentences.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use xvla_ros::error::{CheckpointError, InputError};
use xvla_ros::transform::TransformError;
use xvla_ros::transform::tokenize::{BART_PAD_ID, PaddingSide, Tokenizer};
use xvla_ros::transform::train_tokenizer::train_small;

#[derive(Deserialize)]
struct Expected {
    pad_id: i64,
    sentences: Vec<String>,
    encodings: Vec<Encodings>,
}

#[derive(Deserialize)]
struct Encodings {
    max_length: usize,
    ids: Vec<Vec<i64>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn assert_equals_hugging_face(tokenizer_json: &str) {
    let expected = expected();
    assert_eq!(expected.pad_id, BART_PAD_ID);
    for Encodings { max_length, ids } in &expected.encodings {
        let tokenizer = Tokenizer::from_file(&fixture(tokenizer_json), *max_length, BART_PAD_ID).unwrap();
        assert_eq!(ids.len(), expected.sentences.len());
        for (sentence, ids) in expected.sentences.iter().zip(ids) {
            match tokenizer.encode(sentence) {
                Ok(found) => assert_eq!(found.ids, *ids, "{sentence:?} at {max_length} tokens"),
                Err(error) => assert!(sentence.trim().is_empty(), "{sentence:?}: {error}"),
            }
        }
    }
}

#[test]
fn ids_equal_hugging_faces_cut_or_padded() {
    assert_equals_hugging_face("tokenizer.json");
}

#[test]
fn padding_and_truncation_saved_in_the_file_are_ignored() {
    assert_equals_hugging_face("tokenizer_after_use.json");
}

#[test]
fn left_padding_moves_the_text_to_the_end() {
    let right = Tokenizer::from_file(&fixture("tokenizer.json"), 40, BART_PAD_ID).unwrap();
    let left =
        Tokenizer::from_file(&fixture("tokenizer.json"), 40, BART_PAD_ID).unwrap().with_padding_side(PaddingSide::Left);
    let text = "pick up the red cube";
    let (mut right, left) = (right.encode(text).unwrap().ids, left.encode(text).unwrap().ids);
    let padding = right.iter().filter(|id| **id == BART_PAD_ID).count();
    assert!(padding > 0);
    right.rotate_right(padding);
    assert_eq!(left, right);
}

#[test]
fn a_cut_instruction_keeps_its_end_token() {
    let tokenizer = Tokenizer::from_file(&fixture("tokenizer.json"), 5, BART_PAD_ID).unwrap();
    let ids = tokenizer.encode(&"stack the blocks ".repeat(50)).unwrap().ids;
    assert_eq!((ids.len(), ids[0], ids[4]), (5, 0, 2));
}

#[test]
fn the_tokens_of_a_cut_instruction_are_counted_as_if_it_had_not_been_cut() {
    let text = "stack the blocks ".repeat(50);
    let tokens = |length: usize| {
        Tokenizer::from_file(&fixture("tokenizer.json"), length, BART_PAD_ID).unwrap().encode(&text).unwrap().tokens
    };
    let whole = tokens(10_000);
    assert!(whole > 100, "{whole}");
    for length in [3, 5, 40, whole - 1, whole, whole + 1] {
        assert_eq!(tokens(length), whole, "cut to {length}");
    }
}

#[test]
fn an_instruction_without_words_is_refused() {
    let tokenizer = Tokenizer::from_file(&fixture("tokenizer.json"), 50, BART_PAD_ID).unwrap();
    for blank in ["", " ", "\n\t \u{3000}"] {
        let error = tokenizer.encode(blank).unwrap_err();
        assert!(matches!(error, TransformError::Input(InputError::EmptyInstruction)), "{blank:?}: {error}");
    }
}

/// Why there is no tokenizer of `tokens` tokens in the fixture called `name`.
fn refusal(name: &str, tokens: usize) -> CheckpointError {
    Tokenizer::from_file(&fixture(name), tokens, BART_PAD_ID).err().unwrap()
}

#[test]
fn a_length_without_room_for_words_is_refused() {
    let error = refusal("tokenizer.json", 2).to_string();
    assert!(error.contains("tokenizer.json: 2 tokens leave no room"), "{error}");
}

#[test]
fn a_file_that_holds_no_tokenizer_is_refused() {
    let error = refusal("expected.json", 50).to_string();
    assert!(error.contains("expected.json: not a tokenizer"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_an_io_error() {
    assert!(matches!(refusal("absent.json", 50), CheckpointError::Io { .. }));
}

/// A tokenizer of 512 tokens as `checkpoint synth` trains one.
fn trained() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, train_small(512).unwrap()).unwrap();
    Tokenizer::from_file(&path, 50, BART_PAD_ID).unwrap()
}

#[test]
fn a_tokenizer_trained_for_a_synthetic_checkpoint_has_the_vocabulary_that_was_asked_for() {
    assert_eq!(trained().vocab_size(), 512);
}

#[test]
fn a_tokenizer_trained_for_a_synthetic_checkpoint_starts_and_pads_as_barts() {
    let ids = trained().encode("pick up the red block and place it in the basket").unwrap().ids;
    assert_eq!((ids.len(), ids[0]), (50, 0));
    assert!(ids.iter().all(|id| (0..512).contains(id)));
}

#[test]
fn a_tokenizer_trained_for_a_synthetic_checkpoint_knows_words_of_instructions() {
    let ids = trained().encode("pick up the red block and place it in the basket").unwrap().ids;
    let words = ids.iter().take_while(|id| **id != 2).count();
    assert!((5..20).contains(&words), "{words} tokens for 11 words");
}

#[test]
fn a_text_that_must_not_be_cut_is_refused_with_both_numbers() {
    let words = "pick up the red block and place it in the basket ";
    assert_eq!(trained().with_cutting(false).encode(words).unwrap().ids.len(), 50);
    let refusal = trained().with_cutting(false).encode(&words.repeat(8)).unwrap_err().to_string();
    assert!(refusal.contains("but the checkpoint takes 50"), "{refusal}");
}
