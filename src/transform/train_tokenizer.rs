//! Trains a small tokenizer for synthetic checkpoints: byte-level BPE with BART's special tokens, on robot
//! instructions. The same vocabulary size always gives the same file.

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::transform::TransformError;

/// Special tokens in the order of BART's ids, 0 to 3.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
/// The special token that has the last id, as in BART.
const MASK: &str = "<mask>";
/// Size of the vocabulary before any merge: special tokens, one token per byte, and the mask.
pub const MIN_VOCAB_SIZE: usize = SPECIAL.len() + 256 + 1;

const ACTIONS: [&str; 16] = [
    "pick up",
    "grasp",
    "lift",
    "push",
    "pull",
    "move",
    "slide",
    "rotate",
    "open",
    "close",
    "wipe",
    "fold",
    "pour from",
    "hand over",
    "turn on",
    "look at",
];
const OBJECTS: [&str; 24] = [
    "the red block",
    "the blue cube",
    "the black bowl",
    "the white mug",
    "the yellow banana",
    "the green cup",
    "the butter",
    "the cream cheese",
    "the tomato sauce",
    "the alphabet soup",
    "the salad dressing",
    "the milk carton",
    "the wine bottle",
    "the frying pan",
    "the moka pot",
    "the book",
    "the towel",
    "the cloth",
    "the screwdriver",
    "the spoon",
    "the top drawer",
    "the middle drawer",
    "the microwave door",
    "the stove knob",
];
const PLACES: [&str; 16] = [
    "",
    " and place it in the basket",
    " and put it on the plate",
    " and put it in the bowl",
    " next to the plate",
    " on the left of the table",
    " to the right side of the tray",
    " in front of the robot",
    " behind the caddy",
    " on top of the cabinet",
    " with the left arm",
    " with the right gripper",
    " between the two cups",
    " using both hands",
    " slowly and carefully",
    ", then return to the home position",
];

/// The text of a `tokenizer.json` with at most `vocab_size` tokens. It has fewer if the sentences hold no more pairs to
/// merge.
///
/// Layout of the ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then bytes and merges, `<mask>` last.
///
/// # Errors
/// A `vocab_size` below [`MIN_VOCAB_SIZE`], or a failure inside the tokenizer library.
pub fn train_small(vocab_size: usize) -> Result<String, TransformError> {
    if vocab_size < MIN_VOCAB_SIZE {
        return Err(TransformError::Tokenizer(format!(
            "a vocabulary of {vocab_size} is too small: the special tokens and bytes alone are {MIN_VOCAB_SIZE}"
        )));
    }
    let refused = |error: tokenizers::Error| TransformError::Tokenizer(error.to_string());

    let mut tokenizer =
        TokenizerImpl::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new(
            BPE::default(),
        );
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevelDecoder::default()))
        .with_post_processor(Some(RobertaProcessing::default().add_prefix_space(false)));

    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - 1)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, sentences()).map_err(refused)?;
    tokenizer.add_special_tokens([AddedToken::from(MASK, true).lstrip(true)]).map_err(refused)?;
    tokenizer.to_string(false).map_err(refused)
}

/// Every action on every object in every place: 6,144 sentences.
fn sentences() -> impl Iterator<Item = String> + Send {
    ACTIONS.iter().flat_map(|action| {
        OBJECTS.iter().flat_map(move |object| PLACES.iter().map(move |place| format!("{action} {object}{place}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_barts_ids_and_training_is_repeatable() {
        let json = train_small(400).unwrap();
        assert_eq!(json, train_small(400).unwrap());
        let tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        for (id, token) in SPECIAL.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
        }
        assert_eq!(tokenizer.get_vocab_size(true), 400);
        assert_eq!(tokenizer.token_to_id(MASK), Some(399));
    }

    #[test]
    fn any_text_survives_encoding_and_decoding() {
        let tokenizer = tokenizers::Tokenizer::from_bytes(train_small(300).unwrap()).unwrap();
        for text in ["pick up the red block", "  Größe: 3 µm\n\t終", "emoji 🤖 and \u{0} NUL"] {
            let ids = tokenizer.encode_fast(text, true).unwrap();
            assert_eq!((ids.get_ids().first(), ids.get_ids().last()), (Some(&0), Some(&2)));
            assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_all_bytes_is_refused() {
        assert!(train_small(MIN_VOCAB_SIZE - 1).is_err());
        assert!(train_small(MIN_VOCAB_SIZE).is_ok());
    }
}
