//! One message of a bag.

use super::problem::Place;
use crate::types::Stamp;

/// A message of a bag.
#[derive(Clone, Debug)]
pub struct BagMessage<'a> {
    /// The number of its topic in [`Bag::topics`].
    pub topic: usize,
    /// When the recorder received it.
    pub received: Stamp,
    /// When it was sent. Where the recorder did not know, and in SQLite files, which have no room for it, the time of
    /// reception.
    pub published: Stamp,
    /// Where it stands.
    pub place: Place,
    /// The message in the topic's serialisation, decompressed.
    pub data: &'a [u8],
}

/// What stands before a message's data.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The number of its topic.
    pub(super) topic: usize,
    pub(super) received_ns: i64,
    pub(super) published_ns: i64,
    pub(super) place: Place,
}
