//! Files that end: neither pipes, which wait for whoever writes to them, nor sockets, devices or folders.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// What is known of the regular file at `path`, or at the end of a link there. To be asked before a file is opened, since
/// opening is what hangs.
pub(super) fn regular_file(path: &Path) -> Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() { Ok(metadata) } else { Err(Error::new(ErrorKind::InvalidInput, "not a regular file")) }
}

/// Opens the regular file at `path`.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    regular_file(path).and_then(|_| File::open(path))
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
            assert_eq!(open_regular(&path(name)).unwrap_err().to_string(), "not a regular file", "{name}");
        }
    }

    #[test]
    fn a_link_to_a_regular_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"abc").unwrap();
        symlink("a", folder.path().join("link")).unwrap();
        assert_eq!(open_regular(&folder.path().join("link")).unwrap().metadata().unwrap().len(), 3);
    }
}
