//! Parquet files: whole columns of small tables, and single rows of large ones.
//!
//! Columns are read one at a time and page by page, so that a row of pictures costs the memory of a page, however large its
//! file is.

use super::pages::CheckedPages;
use crate::data::DatasetError;
use crate::error::open_regular;
use half::f16;
use parquet::basic::{LogicalType, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The most rows of a file: ten days at 100 Hz.
pub(super) const MAX_ROWS: i64 = 100_000_000;
/// Rows that are looked through at a time.
const STRIDE: usize = 4096;

/// An open file.
pub(super) struct Table {
    path: PathBuf,
    file: SerializedFileReader<File>,
}

/// Where a row lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    group: usize,
    row: usize,
}

/// The values of one row's cell, without those that are null.
#[derive(Debug, PartialEq)]
pub(super) enum Cell {
    Numbers(Vec<f64>),
    Integers(Vec<i64>),
    Bytes(Vec<Vec<u8>>),
}

impl Cell {
    /// The values as numbers; `None` for text.
    pub(super) fn into_numbers(self) -> Option<Vec<f64>> {
        match self {
            Self::Numbers(values) => Some(values),
            Self::Integers(values) => Some(values.into_iter().map(|value| value as f64).collect()),
            Self::Bytes(_) => None,
        }
    }
}

impl Table {
    /// Opens `path` and reads its directory.
    pub(super) fn open(path: PathBuf) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { path: path.clone(), source };
        let file = open_regular(&path).map_err(io)?;
        match guarded(|| SerializedFileReader::new(file)) {
            Ok(file) => {
                let rows = file.metadata().file_metadata().num_rows();
                let table = Self { path, file };
                if (0..=MAX_ROWS).contains(&rows) {
                    Ok(table)
                } else {
                    Err(table.broken(format!("{rows} rows: expected at most {MAX_ROWS}")))
                }
            }
            Err(error) => {
                let reason = format!("no readable Parquet file, it may be cut short: {}", first_line(&error));
                Err(DatasetError::Malformed { path, reason })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub(super) fn broken(&self, reason: String) -> DatasetError {
        DatasetError::Malformed { path: self.path.clone(), reason }
    }

    fn unreadable(&self, key: &str, error: &ParquetError) -> DatasetError {
        self.fault(key, format!("damaged or not supported: {}", first_line(error)))
    }

    /// An error about the column `key` of this file.
    pub(super) fn fault(&self, key: &str, reason: String) -> DatasetError {
        DatasetError::Array { path: self.path.clone(), key: key.to_owned(), reason }
    }

    /// Whether there is a column called `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.leaves(key).next().is_some()
    }

    /// The leaves of the column `key`: their index and the names below it.
    fn leaves<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (usize, &'a [String])> {
        let columns = self.file.metadata().file_metadata().schema_descr().columns().iter().enumerate();
        columns.filter_map(move |(index, column)| match column.path().parts() {
            [name, below @ ..] if name == key => Some((index, below)),
            _ => None,
        })
    }

    /// The only leaf of the column `key`, or the one called `field` where it is a structure.
    fn leaf(&self, key: &str, field: &str) -> Result<usize, DatasetError> {
        let leaves: Vec<(usize, &[String])> = self.leaves(key).collect();
        match leaves.as_slice() {
            [(index, _)] => Ok(*index),
            [] => {
                let schema = self.file.metadata().file_metadata().schema();
                let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
                Err(DatasetError::MissingKey {
                    path: self.path.clone(),
                    key: key.to_owned(),
                    present: if names.is_empty() { "no columns".to_owned() } else { names.join(", ") },
                })
            }
            several => {
                let found = several.iter().find(|(_, below)| below.last().is_some_and(|name| name == field));
                found.map(|(index, _)| *index).ok_or_else(|| self.fault(key, format!("a structure without `{field}`")))
            }
        }
    }

    fn reader(&self, key: &str, group: usize, column: usize) -> Result<ColumnReader, DatasetError> {
        let pages = guarded(|| self.file.get_row_group(group)?.get_column_page_reader(column));
        let pages = pages.map_err(|error| self.unreadable(key, &error))?;
        match self.file.metadata().file_metadata().schema_descr().columns().get(column) {
            Some(descriptor) => Ok(get_column_reader(descriptor.clone(), Box::new(CheckedPages::new(pages)))),
            None => Err(self.fault(key, "not described".to_owned())),
        }
    }

    /// Reads a column of whole numbers, one per row.
    pub(super) fn integers(&self, key: &str) -> Result<Vec<i64>, DatasetError> {
        let mut all = Vec::new();
        self.each_integers(&[key], |_, columns| {
            columns.first().into_iter().for_each(|column| all.extend_from_slice(column));
            true
        })?;
        Ok(all)
    }

    /// Reads a column of numbers, one per row.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f64>, DatasetError> {
        let mut all = Vec::new();
        for (group, rows) in self.groups() {
            let values = self.cells(key, "", group, 0, rows)?.into_numbers();
            let values = values.ok_or_else(|| self.fault(key, "text: expected numbers".to_owned()))?;
            if values.len() != rows {
                return Err(self.fault(key, format!("{} values in {rows} rows", values.len())));
            }
            all.extend(values);
        }
        Ok(all)
    }

    /// Reads a column of text, one per row.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, DatasetError> {
        let mut all = Vec::new();
        for (group, rows) in self.groups() {
            match self.cells(key, "", group, 0, rows)? {
                Cell::Bytes(values) if values.len() == rows => {
                    all.extend(values.into_iter().map(|text| String::from_utf8_lossy(&text).into_owned()));
                }
                Cell::Bytes(values) => return Err(self.fault(key, format!("{} texts in {rows} rows", values.len()))),
                _ => return Err(self.fault(key, "numbers: expected text".to_owned())),
            }
        }
        Ok(all)
    }

    /// The name of the first column of text.
    pub(super) fn text_column(&self) -> Option<&str> {
        let columns = self.file.metadata().file_metadata().schema_descr().columns().iter();
        let mut texts = columns.filter(|column| column.physical_type() == Physical::BYTE_ARRAY);
        texts.find_map(|column| column.path().parts().first()).map(String::as_str)
    }

    /// The row groups, with their rows.
    fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        let groups = self.file.metadata().row_groups().iter().enumerate();
        groups.map(|(index, group)| (index, usize::try_from(group.num_rows()).unwrap_or(0)))
    }

    /// The first row whose whole numbers in the columns of `wanted` are these.
    pub(super) fn find(&self, wanted: &[(&str, i64)]) -> Result<Option<Row>, DatasetError> {
        let keys: Vec<&str> = wanted.iter().map(|(key, _)| *key).collect();
        let mut found = None;
        self.each_integers(&keys, |start, columns| {
            let rows = columns.first().map_or(0, Vec::len);
            let is_it =
                |row: &usize| columns.iter().zip(wanted).all(|(column, (_, value))| column.get(*row) == Some(value));
            found = (0..rows).find(is_it).map(|row| Row { group: start.group, row: start.row.saturating_add(row) });
            found.is_none()
        })?;
        Ok(found)
    }

    /// Hands the columns `keys` to `take`, some rows at a time and all columns side by side, until it says `false`.
    fn each_integers(&self, keys: &[&str], mut take: impl FnMut(Row, &[Vec<i64>]) -> bool) -> Result<(), DatasetError> {
        let leaves = keys.iter().map(|key| Ok((*key, self.leaf(key, "")?)));
        let leaves: Vec<(&str, usize)> = leaves.collect::<Result<_, DatasetError>>()?;
        for (group, rows) in self.groups() {
            let readers = leaves.iter().map(|(key, leaf)| Ok((*key, self.reader(key, group, *leaf)?)));
            let mut readers: Vec<(&str, ColumnReader)> = readers.collect::<Result<_, DatasetError>>()?;
            let mut row = 0;
            while row < rows {
                let count = rows.saturating_sub(row).min(STRIDE);
                let mut columns = Vec::with_capacity(keys.len());
                for (key, reader) in &mut readers {
                    let Cell::Integers(values) = self.next_cells(key, reader, count)? else {
                        return Err(self.fault(key, "expected whole numbers".to_owned()));
                    };
                    if values.len() != count {
                        return Err(self.fault(key, format!("{} values in {count} rows", values.len())));
                    }
                    columns.push(values);
                }
                if !take(Row { group, row }, &columns) {
                    return Ok(());
                }
                row = row.saturating_add(count);
            }
        }
        Ok(())
    }

    /// The cell of the column `key` in one row; of a structure, its `field`.
    pub(super) fn cell(&self, key: &str, field: &str, row: Row) -> Result<Cell, DatasetError> {
        self.cells(key, field, row.group, row.row, 1)
    }

    /// The text or bytes of the column `key` in one row; `None` for null.
    pub(super) fn bytes(&self, key: &str, field: &str, row: Row) -> Result<Option<Vec<u8>>, DatasetError> {
        match self.cell(key, field, row)? {
            Cell::Bytes(values) => Ok(values.into_iter().next()),
            _ => Err(self.fault(key, "numbers: expected bytes".to_owned())),
        }
    }

    /// Whether the column `key` is a structure.
    pub(super) fn is_structure(&self, key: &str) -> bool {
        self.leaves(key).count() > 1
    }

    fn cells(&self, key: &str, field: &str, group: usize, skip: usize, rows: usize) -> Result<Cell, DatasetError> {
        let mut reader = self.reader(key, group, self.leaf(key, field)?)?;
        let skipped = guarded(|| match &mut reader {
            ColumnReader::BoolColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::Int32ColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::Int64ColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::FloatColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::DoubleColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::ByteArrayColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => reader.skip_records(skip),
            ColumnReader::Int96ColumnReader(reader) => reader.skip_records(skip),
        });
        match skipped {
            Ok(skipped) if skipped == skip => self.next_cells(key, &mut reader, rows),
            Ok(skipped) => Err(self.fault(key, format!("ends after {skipped} rows of a row group"))),
            Err(error) => Err(self.unreadable(key, &error)),
        }
    }

    /// The next `rows` rows of a column.
    fn next_cells(&self, key: &str, reader: &mut ColumnReader, rows: usize) -> Result<Cell, DatasetError> {
        let cell = match reader {
            ColumnReader::BoolColumnReader(reader) => {
                next(reader, rows).map(|values| Cell::Integers(values.into_iter().map(i64::from).collect()))
            }
            ColumnReader::Int32ColumnReader(reader) => {
                next(reader, rows).map(|values| Cell::Integers(values.into_iter().map(i64::from).collect()))
            }
            ColumnReader::Int64ColumnReader(reader) => next(reader, rows).map(Cell::Integers),
            ColumnReader::FloatColumnReader(reader) => {
                next(reader, rows).map(|values| Cell::Numbers(values.into_iter().map(f64::from).collect()))
            }
            ColumnReader::DoubleColumnReader(reader) => next(reader, rows).map(Cell::Numbers),
            ColumnReader::ByteArrayColumnReader(reader) => next(reader, rows)
                .map(|values| Cell::Bytes(values.into_iter().map(|value| value.data().to_vec()).collect())),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                let halves = next(reader, rows).map(|values| {
                    let half = |value: &[u8]| value.try_into().ok().map(|bytes| f64::from(f16::from_le_bytes(bytes)));
                    values.iter().map(|value| half(value.data())).collect::<Option<Vec<f64>>>()
                });
                match halves {
                    Ok(Some(values)) if self.is_half(key) => Ok(Cell::Numbers(values)),
                    Ok(_) => return Err(self.fault(key, "bytes of fixed length, which are not supported".to_owned())),
                    Err(error) => Err(error),
                }
            }
            ColumnReader::Int96ColumnReader(_) => {
                return Err(self.fault(key, "numbers of 96 bits, which are not supported".to_owned()));
            }
        };
        cell.map_err(|error| self.unreadable(key, &error))
    }

    /// Whether the column `key` holds numbers of 16 bits.
    fn is_half(&self, key: &str) -> bool {
        let schema = self.file.metadata().file_metadata().schema_descr();
        let is_half = |(index, _): (usize, &[String])| {
            schema.columns().get(index).and_then(|column| column.logical_type_ref()) == Some(&LogicalType::Float16)
        };
        self.leaves(key).any(is_half)
    }
}

/// The values of the next `rows` rows of a column, without those that are null.
fn next<T: DataType>(reader: &mut ColumnReaderImpl<T>, rows: usize) -> Result<Vec<T::T>, ParquetError> {
    guarded(|| {
        let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
        reader.read_records(rows, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        Ok(values)
    })
}

/// What `read` gives, with a panic of the crate as an error: its decoders trust pages in places where a damaged file can
/// say anything. Nothing that `read` has touched is used again after an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    outcome.unwrap_or_else(|_| Err(ParquetError::General("its pages contradict each other".to_owned())))
}

fn first_line(error: &ParquetError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
