//! The write-ahead log beside a database (<https://sqlite.org/walformat.html>), looked at for damage.
//!
//! SQLite reads its frames up to the first whose checksum is wrong, and takes what follows for an older log that has been
//! begun anew. Frames there with the salts of the log as it is now were written to it, and are lost without a word.

use super::super::problem::{At, Problem};
use super::connect::beside;
use crate::error::open_regular;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

/// What stands before the page in a frame.
const HEAD_BYTES: usize = 24;
/// The log is read in pieces of this size.
const STEP_BYTES: usize = 1 << 20;

/// Tells what is damaged in the log of the database at `path`; nothing if there is none, or one that cannot be read.
pub(super) fn damage_beside(path: &Path, shown: &Arc<Path>) -> Option<Problem> {
    // It lies beside the file itself, not beside a link to it.
    let log = open_regular(&beside(&std::fs::canonicalize(path).ok()?, "-wal")).ok()?;
    let damage = damage(BufReader::with_capacity(STEP_BYTES, log)).ok()??;
    Some(Problem::new(shown, At::File, format!("the write-ahead log beside it (`*-wal`) {damage}")))
}

/// What is damaged in a log.
///
/// # Errors
/// It cannot be read.
fn damage(mut log: impl Read) -> io::Result<Option<String>> {
    let mut header = [0; 32];
    match fill(&mut log, &mut header)? {
        0 => return Ok(None),
        32 => {}
        _ => return Ok(Some("is cut off within its header: none of it is read".to_owned())),
    }
    let Some(Header { mut checksum, page_bytes, salts }) = Header::read(&header) else {
        let is_more = fill(&mut log, &mut [0])? > 0;
        return Ok(is_more.then(|| "has a damaged header: none of it is read".to_owned()));
    };
    let mut frame = vec![0; HEAD_BYTES + page_bytes];
    let (mut frames, mut lost, mut broken) = (0_u64, 0_u64, None);
    let left = loop {
        let filled = fill(&mut log, &mut frame)?;
        if filled < frame.len() {
            break frame.get(..filled).unwrap_or_default();
        }
        frames += 1;
        let is_own = salts_of(&frame) == Some(salts);
        if broken.is_none() && !(is_own && checksum.takes(&frame)) {
            broken = Some(frames);
        }
        lost += u64::from(broken.is_some() && is_own);
    };
    // So few bytes do not tell which log they are of, but an older one would go on where this one ends.
    let is_cut = !left.is_empty() && salts_of(left).map_or(broken.is_none(), |found| found == salts);
    Ok(match broken {
        Some(broken) if lost > 0 => Some(format!(
            "is damaged: of its {frames} frames those from number {broken} on are not read, and what only they hold is missing"
        )),
        _ if is_cut => Some("ends in the middle of a frame: what only that holds is missing".to_owned()),
        _ => None,
    })
}

/// The salts in a frame's head.
fn salts_of(frame: &[u8]) -> Option<[u8; 8]> {
    frame.get(8..)?.first_chunk().copied()
}

/// Fills `into`, or gives how much there is before the end.
fn fill(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = into.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

struct Header {
    /// The sum of the header, which goes on with the frames.
    checksum: Checksum,
    page_bytes: usize,
    /// What tells the frames of this log from those of older ones.
    salts: [u8; 8],
}

impl Header {
    /// `None` for a header that SQLite does not believe.
    fn read(bytes: &[u8; 32]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        let big_endian = match number(0)? {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_bytes = number(8).filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes))?;
        let mut checksum = Checksum { big_endian, sums: (0, 0) };
        checksum.add(bytes.get(..24)?);
        let salts = *bytes.get(16..)?.first_chunk()?;
        checksum.is(bytes.get(24..)?).then_some(Self { checksum, page_bytes: page_bytes as usize, salts })
    }
}

/// The sum of all that lies before a place of the log.
struct Checksum {
    /// Of the words that are summed up; what is stored is big-endian.
    big_endian: bool,
    sums: (u32, u32),
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let word: fn([u8; 4]) -> u32 = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let (mut first, mut second) = self.sums;
        for [a, b, c, d, e, f, g, h] in bytes.as_chunks::<8>().0 {
            first = first.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(second);
            second = second.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(first);
        }
        self.sums = (first, second);
    }

    fn is(&self, stored: &[u8]) -> bool {
        stored == [self.sums.0.to_be_bytes(), self.sums.1.to_be_bytes()].concat()
    }

    /// Adds a frame, and tells whether SQLite believes it: it is of a page, and has the sum that it says.
    fn takes(&mut self, frame: &[u8]) -> bool {
        let (head, page) = frame.split_at_checked(HEAD_BYTES).unwrap_or_default();
        self.add(head.get(..8).unwrap_or_default());
        self.add(page);
        head.get(16..).is_some_and(|sum| self.is(sum)) && head.get(..4) != Some(&[0; 4][..])
    }
}
