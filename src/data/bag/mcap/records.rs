//! The records of mcap (<https://mcap.dev/spec>) that reading needs.
//!
//! The readers of the crate `mcap` (0.26) give no offsets to name in a problem, end at the first damaged chunk, and copy
//! what is not compressed once more; its records allocate what the length of a text says. Its names of opcodes are used.

use super::super::topic::{BagTopic, Definition, Numbers, Topics};
use mcap::records::op;
use std::collections::HashMap;

/// Opcode and length of a record.
pub(super) const FRAME_BYTES: u64 = 9;
/// Channel, sequence number and both times of a message.
pub(super) const MESSAGE_BYTES: usize = 22;
/// A chunk's header with an empty name of its compression.
const CHUNK_BYTES: usize = 40;
/// Enough for a chunk's frame and header with any name of a compression.
pub(super) const CHUNK_PROBE_BYTES: u64 = FRAME_BYTES + CHUNK_BYTES as u64 + 64;
/// Longer than any message definition; what is longer is not kept.
const MAX_DEFINITION_BYTES: usize = 4 << 20;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The fields of a record, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        u16_at(self.take(2)?, 0)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        u32_at(self.take(4)?, 0)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        u64_at(self.take(8)?, 0)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A map from channels to numbers.
    pub(super) fn by_channel(&mut self) -> Option<Vec<(u16, u64)>> {
        let mut entries = Fields(self.bytes()?);
        let mut found = Vec::new();
        while !entries.0.is_empty() {
            found.push((entries.u16()?, entries.u64()?));
        }
        Some(found)
    }
}

/// Opcode of the record at the start of `bytes`, and the length of its body.
pub(super) fn frame(bytes: &[u8]) -> Option<(u8, u64)> {
    Some((*bytes.first()?, u64_at(bytes, 1)?))
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageHead {
    pub(super) channel: u16,
    /// When it was received, nanoseconds.
    pub(super) log_time: u64,
    /// When it was sent, nanoseconds; recorders that do not know it write the time of reception.
    pub(super) publish_time: u64,
}

impl MessageHead {
    /// The header at the start of a message's body.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        Some(Self { channel: u16_at(body, 0)?, log_time: u64_at(body, 6)?, publish_time: u64_at(body, 14)? })
    }
}

/// The header of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChunkHead {
    /// The earliest receive time in it, nanoseconds.
    pub(super) start: u64,
    /// The latest.
    pub(super) end: u64,
    /// Length of its content, bytes.
    pub(super) uncompressed: u64,
    /// CRC-32 of its content; 0 where the writer made none.
    pub(super) crc: u32,
    /// `zstd`, `lz4` or empty.
    pub(super) compression: String,
    /// Length of its data, bytes.
    pub(super) compressed: u64,
    /// Where its data begin, bytes from the start of the record.
    pub(super) data_at: u64,
}

impl ChunkHead {
    /// The header in `record`, which begins with the frame of a chunk.
    pub(super) fn read(record: &[u8]) -> Option<Self> {
        let (op::CHUNK, length) = frame(record)? else { return None };
        let body = record.get(FRAME_BYTES as usize..)?;
        let name = u32_at(body, 28)? as usize;
        let compression = body.get(32..)?.get(..name)?;
        let compressed = u64_at(body, 32 + name)?;
        let data_at = FRAME_BYTES + (CHUNK_BYTES + name) as u64;
        if compressed > length.checked_sub(data_at - FRAME_BYTES)? {
            return None;
        }
        Some(Self {
            start: u64_at(body, 0)?,
            end: u64_at(body, 8)?,
            uncompressed: u64_at(body, 16)?,
            crc: u32_at(body, 24)?,
            compression: String::from_utf8_lossy(compression).into_owned(),
            compressed,
            data_at,
        })
    }
}

/// The channel of a message index and the number of its entries.
pub(super) fn index_of_channel(body: &[u8]) -> Option<(u16, u64)> {
    Some((u16_at(body, 0)?, u64::from(u32_at(body, 2)? / 16)))
}

/// A channel as it is declared.
#[derive(Debug)]
struct Channel {
    schema: u16,
    topic: String,
    encoding: String,
    offered_qos: String,
    type_hash: Option<String>,
}

impl Channel {
    fn read(mut fields: Fields<'_>) -> Option<(u16, Self)> {
        let (id, schema) = (fields.u16()?, fields.u16()?);
        let (topic, encoding) = (fields.text()?.to_owned(), fields.text()?.to_owned());
        let mut channel = Self { schema, topic, encoding, offered_qos: String::new(), type_hash: None };
        let mut about = Fields(fields.bytes()?);
        while !about.0.is_empty() {
            match (about.text()?, about.text()?) {
                ("offered_qos_profiles", text) => channel.offered_qos = text.to_owned(),
                ("topic_type_hash", text) if !text.is_empty() => channel.type_hash = Some(text.to_owned()),
                _ => {}
            }
        }
        Some((id, channel))
    }
}

/// The id of a schema, the name of its type, and its text.
fn schema(mut fields: Fields<'_>) -> Option<(u16, (String, Option<Definition>))> {
    let (id, name, encoding) = (fields.u16()?, fields.text()?, fields.text()?);
    let text = std::str::from_utf8(fields.bytes()?).ok();
    let text = text.filter(|text| !text.is_empty() && text.len() <= MAX_DEFINITION_BYTES);
    let definition = text.map(|text| Definition { encoding: encoding.to_owned(), text: text.to_owned() });
    Some((id, (name.to_owned(), definition)))
}

/// Schemas and channels as a file declares them.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Name of the type and its definition by id.
    schemas: HashMap<u16, (String, Option<Definition>)>,
    channels: HashMap<u16, Channel>,
}

impl Declared {
    /// Takes the schema or channel in a record. The first of several with one id counts.
    ///
    /// # Errors
    /// The record is damaged.
    pub(super) fn take(&mut self, opcode: u8, body: &[u8]) -> Result<(), &'static str> {
        match opcode {
            op::SCHEMA => {
                let (id, schema) = schema(Fields(body)).ok_or("a schema whose record is damaged")?;
                self.schemas.entry(id).or_insert(schema);
            }
            op::CHANNEL => {
                let (id, channel) = Channel::read(Fields(body)).ok_or("a channel whose record is damaged")?;
                self.channels.entry(id).or_insert(channel);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn has_channel(&self, id: u16) -> bool {
        self.channels.contains_key(&id)
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Adds the channels to the bag's topics. `messages` are their counts; `None` where nobody counted.
    pub(super) fn add_to(self, topics: &mut Topics, messages: Option<&HashMap<u16, u64>>) -> Numbers<u16> {
        let mut channels: Vec<_> = self.channels.into_iter().collect();
        channels.sort_by_key(|(id, _)| *id);
        let mut numbers = Numbers::new();
        for (id, channel) in channels {
            let (message_type, definition) = self.schemas.get(&channel.schema).cloned().unwrap_or_default();
            let topic = BagTopic {
                message_type,
                definition,
                serialization: channel.encoding,
                type_hash: channel.type_hash,
                messages: messages.map(|messages| messages.get(&id).copied().unwrap_or(0)),
                offered_qos: channel.offered_qos,
                name: channel.topic,
            };
            if let Some(number) = topics.add(topic) {
                numbers.insert(id, number);
            }
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_whose_data_are_longer_than_its_record_is_refused() {
        let record = |length: u64, compressed: u64| {
            let mut bytes = vec![op::CHUNK];
            bytes.extend(length.to_le_bytes());
            bytes.extend([0; 28]);
            bytes.extend(4_u32.to_le_bytes());
            bytes.extend(b"zstd");
            bytes.extend(compressed.to_le_bytes());
            bytes
        };
        assert_eq!(ChunkHead::read(&record(54, 10)).unwrap().data_at, 9 + 44);
        assert_eq!(ChunkHead::read(&record(53, 10)), None);
        assert_eq!(ChunkHead::read(&record(u64::MAX, 10)).unwrap().compression, "zstd");
        assert_eq!(ChunkHead::read(&record(54, 10)[..52]), None);
    }
}
