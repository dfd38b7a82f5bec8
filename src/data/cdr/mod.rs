//! CDR, the notation that ROS 2 messages have on the wire and in bags, read and written without ROS.
//!
//! Plain CDR only (XCDR1, OMG's DDS-XTypes 1.3, 7.4.1 and 7.6.2.1.2): four bytes of encapsulation header, then the fields
//! one after the other. A number of n bytes lies at a multiple of n, counted from the end of that header. A string is its
//! length in bytes with a NUL, as u32, and these bytes; a sequence is its number of elements, as u32, and these.

mod error;
mod number;
mod reader;
mod writer;

pub use error::CdrError;
pub use number::{Number, Numbers};
pub use reader::{CdrReader, Strings};
pub use writer::CdrWriter;

/// Bytes of the encapsulation header, which says how the rest is written.
pub const HEADER_BYTES: usize = 4;
