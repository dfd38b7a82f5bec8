//! diagnostic_msgs/DiagnosticArray: what the node says about itself on `/diagnostics`.

use super::header::Header;
use super::message::{Message, Read, Write};
use crate::data::cdr::{CdrError, CdrReader, CdrWriter};

/// A diagnostic_msgs/DiagnosticArray.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiagnosticArray {
    /// The moment of the report.
    pub header: Header<String>,
    /// One status per part that is reported on.
    pub status: Vec<DiagnosticStatus>,
}

/// A diagnostic_msgs/DiagnosticStatus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiagnosticStatus {
    /// 0 ok, 1 warning, 2 error, 3 stale.
    pub level: u8,
    /// The part that is reported on.
    pub name: String,
    /// What there is to say about it.
    pub message: String,
    /// The machine.
    pub hardware_id: String,
    /// Details.
    pub values: Vec<KeyValue>,
}

/// A diagnostic_msgs/KeyValue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// What is told.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

impl Message for DiagnosticArray {
    const NAME: &'static str = "diagnostic_msgs/msg/DiagnosticArray";
}

impl Read<'_> for DiagnosticArray {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        let header = Header::read(reader)?;
        // The level with its padding, three strings and a sequence, each at least its length.
        let statuses = reader.length("status", 17)?;
        let status = (0..statuses).map(|_| DiagnosticStatus::read(reader)).collect::<Result<_, _>>()?;
        Ok(Self { header, status })
    }
}

impl Write for DiagnosticArray {
    fn write(&self, writer: &mut CdrWriter) {
        self.header.write(writer);
        writer.length(self.status.len());
        self.status.iter().for_each(|status| status.write(writer));
    }
}

impl DiagnosticStatus {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            level: reader.number("status.level")?,
            name: reader.string("status.name")?.to_owned(),
            message: reader.string("status.message")?.to_owned(),
            hardware_id: reader.string("status.hardware_id")?.to_owned(),
            values: (0..reader.length("status.values", 8)?)
                .map(|_| KeyValue::read(reader))
                .collect::<Result<_, _>>()?,
        })
    }

    fn write(&self, writer: &mut CdrWriter) {
        writer.number(self.level);
        writer.string(&self.name);
        writer.string(&self.message);
        writer.string(&self.hardware_id);
        writer.length(self.values.len());
        for pair in &self.values {
            writer.string(&pair.key);
            writer.string(&pair.value);
        }
    }
}

impl KeyValue {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            key: reader.string("status.values.key")?.to_owned(),
            value: reader.string("status.values.value")?.to_owned(),
        })
    }
}
