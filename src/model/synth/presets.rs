//! The named sizes of synthetic checkpoints.

/// A named set of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A million parameters and 64×64 images: answers in milliseconds, for tests and demonstrations.
    Tiny,
    /// The released size, 0.9 billion parameters and 224×224 images.
    Base,
}

/// The sizes of a network; letters as in [`crate::types`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    pub widths: [i64; 4],
    pub vision_heads: [i64; 4],
    pub depths: [i64; 4],
    pub window: i64,
    pub map_positions: i64,
    pub frame_positions: i64,
    pub projection: i64,
    pub text_layers: i64,
    pub text_heads: i64,
    pub text_ffn: i64,
    pub text_positions: i64,
    pub hidden: i64,
    pub depth: i64,
    pub heads: i64,
    pub domains: i64,
    pub soft_prompts: i64,
    pub time_dim: i64,
    pub max_len_seq: i64,
    /// T: actions in a chunk.
    pub chunk_length: i64,
    /// Side of the square images, pixels.
    pub image_side: i64,
    /// L: tokens of an instruction.
    pub text_tokens: i64,
}

impl Preset {
    /// Rows of the token embedding; [`Preset::Base`] has BART's with Florence-2's additions.
    pub fn vocabulary(self) -> usize {
        match self {
            Self::Tiny => 512,
            Self::Base => 51_289,
        }
    }

    pub(super) fn sizes(self) -> Sizes {
        match self {
            Self::Tiny => Sizes {
                widths: [16, 32, 48, 64],
                vision_heads: [2, 4, 4, 8],
                depths: [1, 1, 2, 1],
                window: 4,
                map_positions: 8,
                frame_positions: 4,
                projection: 64,
                text_layers: 2,
                text_heads: 4,
                text_ffn: 128,
                text_positions: 256,
                hidden: 64,
                depth: 4,
                heads: 4,
                domains: 30,
                soft_prompts: 8,
                time_dim: 32,
                max_len_seq: 256,
                chunk_length: 30,
                image_side: 64,
                text_tokens: 50,
            },
            Self::Base => Sizes {
                widths: [256, 512, 1024, 2048],
                vision_heads: [8, 16, 32, 64],
                depths: [1, 1, 9, 1],
                window: 12,
                map_positions: 50,
                frame_positions: 100,
                projection: 1024,
                text_layers: 12,
                text_heads: 16,
                text_ffn: 4096,
                text_positions: 4096,
                hidden: 1024,
                depth: 24,
                heads: 16,
                domains: 30,
                soft_prompts: 32,
                time_dim: 32,
                max_len_seq: 512,
                chunk_length: 30,
                image_side: 224,
                text_tokens: 50,
            },
        }
    }
}

impl Sizes {
    /// Rows that the policy's position table needs for V `views`: T + V·N + L, N tokens for a map of 1/32.
    pub(super) fn positions_for(&self, views: i64) -> i64 {
        let map = self.image_side / 32;
        self.max_len_seq.max(self.chunk_length + views * (map * map + 1) + self.text_tokens)
    }
}
