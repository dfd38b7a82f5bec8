//! A file seen through a buffer that is filled by large reads, in any order of offsets.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A view of a file. Reads are positioned, so that several views share one open file.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<File>,
    /// Length of the file, bytes.
    length: u64,
    /// What is read at once, bytes.
    step: usize,
    buffer: Vec<u8>,
    /// File offset of the buffer's first byte.
    start: u64,
    /// How many bytes of the buffer are the file's.
    filled: usize,
}

impl Window {
    pub(super) fn new(file: Arc<File>, length: u64, step: usize) -> Self {
        Self { file, length, step, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// The `count` bytes at `offset`, or as many as the file has there: a length that lies costs no memory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn bytes(&mut self, offset: u64, count: u64) -> io::Result<&[u8]> {
        let left = self.length.saturating_sub(offset);
        let count = usize::try_from(count.min(left)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let inside = offset.checked_sub(self.start).and_then(|begin| usize::try_from(begin).ok());
        let begin = match inside.filter(|begin| *begin <= self.filled) {
            Some(begin) if count <= self.filled - begin => begin,
            inside => {
                self.fill(
                    offset,
                    inside.unwrap_or(self.filled),
                    count.max(self.step).min(usize::try_from(left).unwrap_or(usize::MAX)),
                )?;
                0
            }
        };
        let end = (begin + count).min(self.filled);
        Ok(self.buffer.get(begin..end).unwrap_or_default())
    }

    /// Moves the window to `offset`, keeps what the buffer has from `kept` on, and reads up to `count` bytes.
    fn fill(&mut self, offset: u64, kept: usize, count: usize) -> io::Result<()> {
        self.buffer.copy_within(kept..self.filled, 0);
        self.filled -= kept;
        self.start = offset;
        if self.buffer.len() < count {
            self.buffer.resize(count, 0);
        }
        while self.filled < count {
            let Some(room) = self.buffer.get_mut(self.filled..count) else { break };
            match self.file.read_at(room, offset + self.filled as u64) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads `count` bytes at `offset` into the start of `into`, which is never shortened; gives how many there were.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read_into(file: &File, offset: u64, count: usize, into: &mut Vec<u8>) -> io::Result<usize> {
    if into.len() < count {
        into.resize(count, 0);
    }
    let mut filled = 0;
    while let Some(room) = into.get_mut(filled..count).filter(|room| !room.is_empty()) {
        match file.read_at(room, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    proptest! {
        #[test]
        fn every_place_is_the_files_whatever_was_looked_at_before(
            places in proptest::collection::vec((0_u64..1100, 0_u64..300), 1..30),
            step in 1_usize..200,
        ) {
            let content: Vec<u8> = (0..1000_u32).map(|i| (i * 7 % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let mut window = Window::new(Arc::new(file), 1000, step);
            for (offset, count) in places {
                let (from, to) = ((offset as usize).min(1000), ((offset + count) as usize).min(1000));
                prop_assert_eq!(window.bytes(offset, count).unwrap(), &content[from..to]);
            }
        }
    }

    #[test]
    fn a_count_that_lies_costs_no_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mut window = Window::new(Arc::new(file), 3, 1 << 20);
        assert_eq!(window.bytes(1, u64::MAX).unwrap(), b"bc");
        assert!(window.buffer.len() <= 3);
    }
}
