//! Turns an instruction into token ids, as Hugging Face's fast tokenizers do with the same `tokenizer.json`.

use std::path::Path;

use serde::de::IgnoredAny;
use tokenizers::TruncationDirection;

use crate::error::{CheckpointError, MOST_BYTES, check_content, check_instruction, read_regular};
use crate::transform::TransformError;
use crate::transform::tokenizer_settings::TokenizerSettings;

/// BART's padding token.
pub const BART_PAD_ID: i64 = 1;

/// The side on which an instruction shorter than the model's L tokens is padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingSide {
    /// Before the text.
    Left,
    /// After the text.
    #[default]
    Right,
}

/// Whether instructions shorter than the model's L tokens are padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// To exactly L tokens.
    #[default]
    ToLength,
    /// Not at all: L is only the largest length. This is lerobot's `longest` for a single text.
    None,
}

/// A checkpoint's tokenizer, which pads or cuts to one length.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    pad_id: i64,
    padding: Padding,
    padding_side: PaddingSide,
    cuts_beginning: bool,
    cuts: bool,
    /// Tokens that are put around every text, `<s>` and `</s>`.
    special: usize,
}

/// The token ids of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The ids that the model gets, padded or cut.
    pub ids: Vec<i64>,
    /// Tokens of the whole text with its special tokens; if there are more than `ids`, the text was cut.
    pub tokens: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; encodings have `max_length` tokens, padded on the right with `pad_id`
    /// (BART: [`BART_PAD_ID`]).
    ///
    /// Padding and truncation settings inside the file are ignored, because they are those of whoever saved it last.
    ///
    /// # Errors
    /// A file that cannot be read or is not a tokenizer, or a `max_length` that leaves no room beside its special
    /// tokens.
    pub fn from_file(path: &Path, max_length: usize, pad_id: i64) -> Result<Self, CheckpointError> {
        let bytes =
            read_regular(path, MOST_BYTES).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
        let malformed = |reason| CheckpointError::Malformed { path: path.to_owned(), reason };
        check_content(&bytes).map_err(malformed)?;
        Self::from_bytes(&bytes, max_length, pad_id).map_err(malformed)
    }

    fn from_bytes(bytes: &[u8], max_length: usize, pad_id: i64) -> Result<Self, String> {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| format!("not JSON: {error}"))?;
        // The library panics at some values of the wrong type.
        let read = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = match read {
            Ok(read) => read.map_err(|error| format!("not a tokenizer: {error}"))?,
            Err(_) => return Err("not a tokenizer: a part of it has another type than it should".to_owned()),
        };
        let special = inner.get_post_processor().map_or(0, |post| tokenizers::PostProcessor::added_tokens(post, false));
        if max_length <= special {
            return Err(format!("{max_length} tokens leave no room for words beside {special} special tokens"));
        }
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let (padding, padding_side) = (Padding::ToLength, PaddingSide::Right);
        Ok(Self { inner, max_length, pad_id, padding, padding_side, cuts_beginning: false, cuts: true, special })
    }

    /// The same tokenizer, padding and cutting as the files beside it say.
    ///
    /// # Errors
    /// A padding token that it does not have.
    pub fn with_settings(mut self, settings: &TokenizerSettings) -> Result<Self, String> {
        if let Some(token) = &settings.pad_token {
            let id = self.inner.token_to_id(token);
            self.pad_id = i64::from(id.ok_or_else(|| format!("no token `{token}`, with which it is to pad"))?);
        }
        self.cuts_beginning = settings.cuts_beginning;
        Ok(self)
    }

    /// Whether a text that is too long loses its beginning rather than its end.
    pub fn cuts_beginning(&self) -> bool {
        self.cuts_beginning
    }

    /// The same tokenizer with or without padding.
    #[must_use]
    pub fn with_padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// The same tokenizer, padding on `side`.
    #[must_use]
    pub fn with_padding_side(mut self, side: PaddingSide) -> Self {
        self.padding_side = side;
        self
    }

    /// The same tokenizer, which cuts texts that are too long, or refuses them.
    #[must_use]
    pub fn with_cutting(mut self, cuts: bool) -> Self {
        self.cuts = cuts;
        self
    }

    /// L, the number of tokens of every padded encoding and the most that any has.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Number of ids that the tokenizer can produce. The model's embedding must have at least as many rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token ids of `text`: `<s> … </s>`, padded to [`Self::max_length`] unless padding is off. A longer text
    /// is cut so that `</s>` stays; [`Encoded::tokens`] tells.
    ///
    /// # Errors
    /// A text without words, one the tokenizer refuses, or one that is too long and must not be cut.
    pub fn encode(&self, text: &str) -> Result<Encoded, TransformError> {
        check_instruction(text)?;
        let refused = |error: tokenizers::Error| TransformError::Tokenizer(error.to_string());
        // The tokenizer's own truncation would stop at the limit, and nobody would know how much was cut off.
        let mut encoding = self.inner.encode_fast(text, false).map_err(refused)?;
        let tokens = encoding.len() + self.special;
        if !self.cuts && tokens > self.max_length {
            let limit = self.max_length;
            return Err(TransformError::Tokenizer(format!(
                "{tokens} tokens, but the checkpoint takes {limit} and its processor does not cut (`truncation` is false)"
            )));
        }
        let direction = if self.cuts_beginning { TruncationDirection::Left } else { TruncationDirection::Right };
        encoding.truncate(self.max_length - self.special, 0, direction);
        let encoding = self.inner.post_process(encoding, None, true).map_err(refused)?;
        let ids = encoding.get_ids().iter().map(|id| i64::from(*id));
        let missing = match self.padding {
            Padding::ToLength => self.max_length.saturating_sub(encoding.len()),
            Padding::None => 0,
        };
        let padding = std::iter::repeat_n(self.pad_id, missing);
        let ids = match self.padding_side {
            PaddingSide::Left => padding.chain(ids).collect(),
            PaddingSide::Right => ids.chain(padding).collect(),
        };
        Ok(Encoded { ids, tokens })
    }
}
