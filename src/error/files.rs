//! Opening files that somebody else has put there.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The most bytes of a file that holds no weights: configuration, processors, vocabulary.
pub const MOST_BYTES: u64 = 256 << 20;

/// What is known of the regular file at `path`, or at the end of a link there. It is asked for before a file is opened: opening a
/// pipe waits for who writes to it, for ever if nobody does.
///
/// # Errors
/// The operating system's, and [`ErrorKind::InvalidInput`] for what is no regular file.
pub fn regular_file(path: &Path) -> Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() { Ok(metadata) } else { Err(Error::new(ErrorKind::InvalidInput, "not a regular file")) }
}

/// Opens the regular file at `path`.
///
/// # Errors
/// As [`regular_file`].
pub fn open_regular(path: &Path) -> Result<File> {
    regular_file(path).and_then(|_| File::open(path))
}

/// The content of a file of at most `most` bytes.
///
/// # Errors
/// As [`regular_file`], and [`ErrorKind::FileTooLarge`].
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
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    #[test]
    fn what_is_no_regular_file_is_refused_before_it_is_opened_and_through_links_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        symlink(path("pipe"), path("link")).unwrap();
        for name in ["pipe", "socket", "device", "link", ""] {
            assert_eq!(read_regular(&path(name), 10).unwrap_err().to_string(), "not a regular file", "{name}");
        }
    }

    #[test]
    fn a_link_to_a_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"abc").unwrap();
        symlink("a", folder.path().join("link")).unwrap();
        assert_eq!(read_regular(&folder.path().join("link"), 10).unwrap(), b"abc");
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
