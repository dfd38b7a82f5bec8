//! Why the bytes of a message cannot be read.

/// A message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CdrError {
    /// The message begins with something that is not the header of plain CDR.
    #[error("{message}: {reason}")]
    Encapsulation {
        /// The type that was to be read, such as `sensor_msgs/msg/Image`.
        message: &'static str,
        /// What is there instead.
        reason: String,
    },
    /// A field cannot be read.
    #[error("{message}: `{field}` at byte {offset}: {reason}")]
    Field {
        /// The type that was to be read.
        message: &'static str,
        /// The field, with dots for those within others: `header.frame_id`.
        field: &'static str,
        /// Where it begins, counted from the message's first byte, header included.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
}
