//! Decompression that trusts no length: buffers grow with what comes out, and files are unpacked beside the bag's.

use super::problem::BagError;
use crate::error::open_regular;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// What a buffer is given before anything has come out of the decompressor: as much as the chunks of common recorders
/// hold, so that most are decompressed in one pass.
const FIRST_BYTES: usize = 2 << 20;
/// How zstd's frames begin.
pub(super) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The binary logarithm of the largest window that zstd may ask for: what its command line takes, 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Decompresses into the start of `into` up to the end, an error, or `expected` bytes; gives how many bytes there are, and
/// the error. `into` is never shortened, so that its memory is not cleared again for each chunk.
pub(super) fn inflate(source: &mut impl Read, expected: usize, into: &mut Vec<u8>) -> (usize, io::Result<()>) {
    let mut filled = 0;
    while filled < expected {
        if filled == into.len() {
            let more = into.len().max(FIRST_BYTES).min(expected - filled);
            into.resize(filled + more, 0);
        }
        let end = into.len().min(expected);
        let Some(room) = into.get_mut(filled..end) else { break };
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Err(error)),
        }
    }
    (filled, Ok(()))
}

/// A decompressor of `source`, which is in memory already.
///
/// # Errors
/// zstd has no memory.
pub(super) fn zstd(source: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Unpacks the zstd file at `path` into a temporary file, which is removed when it is dropped. A file that is damaged or
/// cut off gives what comes before the damage, and the error.
///
/// # Errors
/// The file cannot be read, or the disk below TMPDIR is full.
pub(super) fn unpack(path: &Path) -> Result<(tempfile::NamedTempFile, Option<io::Error>), BagError> {
    let damaged = |source| BagError::Io { path: path.to_owned(), source };
    let packed = open_regular(path).map_err(damaged)?;
    let folder = std::env::temp_dir();
    let full = |error: io::Error| BagError::Unusable {
        path: path.to_owned(),
        reason: format!("cannot be unpacked into {}: {error}: free some space, or set TMPDIR", folder.display()),
    };
    let mut unpacked = tempfile::Builder::new().prefix("xvla-bag-").tempfile().map_err(full)?;
    let mut decoder = zstd::stream::read::Decoder::new(BufReader::with_capacity(1 << 20, packed)).map_err(damaged)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(damaged)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match decoder.read(&mut buffer) {
            Ok(0) => return Ok((unpacked, None)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok((unpacked, Some(error))),
        };
        io::Write::write_all(&mut unpacked, buffer.get(..count).unwrap_or_default()).map_err(full)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        let packed = zstd::encode_all(&b"short"[..], 1).unwrap();
        let mut buffer = Vec::new();
        let (count, end) = inflate(&mut zstd(&packed).unwrap(), 1 << 40, &mut buffer);
        assert_eq!((&buffer[..count], end.is_ok()), (&b"short"[..], true));
        assert!(buffer.len() <= FIRST_BYTES);
    }

    #[test]
    fn what_comes_before_a_cut_is_kept() {
        let noise: Vec<u8> = (0..1_u32 << 16).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let packed = zstd::encode_all(noise.as_slice(), 1).unwrap();
        let mut buffer = Vec::new();
        let (count, end) = inflate(&mut zstd(&packed[..packed.len() - 50]).unwrap(), noise.len(), &mut buffer);
        assert!(end.is_err() && count > 0 && buffer[..count] == noise[..count], "{count}");
    }
}
