//! Opening files that somebody else has put there.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The most bytes of a file that holds no weights: configuration, processors, vocabulary.
pub const MOST_BYTES: u64 = 256 << 20;

/// Opens a file for reading. Opening a pipe would wait for who writes to it, for ever if nobody does.
///
/// # Errors
/// The operating system's, and [`ErrorKind::InvalidInput`] for what is no regular file.
pub fn open_regular(path: &Path) -> Result<File> {
    if std::fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    Err(Error::new(ErrorKind::InvalidInput, "not a regular file: put the file itself there"))
}

/// The content of a file of at most `most` bytes.
///
/// # Errors
/// As [`open_regular`], and [`ErrorKind::FileTooLarge`].
pub fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    // One more than allowed tells a file that is too large, whatever its length is said to be.
    open_regular(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("more than the {most} bytes that are read")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_instead_of_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("config.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), folder.path()] {
            assert_eq!(read_regular(path, 10).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_file_of_more_bytes_than_asked_for_is_refused_and_one_of_as_many_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_regular(&file, 5).unwrap(), b"12345");
        assert_eq!(read_regular(&file, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
