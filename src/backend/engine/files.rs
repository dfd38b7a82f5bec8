//! Names and contents of the files in an engine cache.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Puts a file of those contents at `path`, whole or not at all, however many processes do so at once.
///
/// # Errors
/// The folder cannot be written, or the disk is full: what was at `path` is still there then.
pub(in crate::backend) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    // Opened here, because a file that `tempfile` opens is readable by its owner only.
    let mut partial =
        tempfile::Builder::new().prefix(".").suffix(".partial").make_in(folder, |partial| File::create_new(partial))?;
    partial.as_file_mut().write_all(contents)?;
    partial.as_file().sync_all()?;
    partial.persist(path).map(drop).map_err(|error| error.error)
}

/// As [`replace`], with the contents' SHA-256 in a line before them, for files that are executed or decide what may be.
///
/// # Errors
/// As [`replace`].
pub(in crate::backend) fn replace_hashed(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut whole = format!("{:x}\n", Sha256::digest(contents)).into_bytes();
    whole.extend_from_slice(contents);
    replace(path, &whole)
}

/// The contents that [`replace_hashed`] has put at `path`.
///
/// # Errors
/// A file that cannot be read; `InvalidData` for one that was changed or damaged.
pub(in crate::backend) fn read_hashed(path: &Path) -> io::Result<Vec<u8>> {
    let mut whole = std::fs::read(path)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it was changed or damaged");
    let end = whole.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
    let contents = whole.split_off(end + 1);
    whole.truncate(end);
    if whole == format!("{:x}", Sha256::digest(&contents)).as_bytes() { Ok(contents) } else { Err(damaged()) }
}

/// The file beside `path` whose lock stands for the right to make `path`. The system ends a lock with the process that
/// holds it, so that one that was killed stands in nobody's way.
///
/// # Errors
/// The folder cannot be written.
pub(in crate::backend) fn lock_file(path: &Path) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Nothing is ever in it. Were it a link, what it leads to keeps its contents.
    File::options().write(true).create(true).truncate(false).open(path.with_file_name(format!(".{name}.lock")))
}

/// `path` with `suffix` at the end of its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The beginning of the SHA-256 of `text`, 16 hex digits, for names of files that are found by what they are for.
pub(in crate::backend) fn short_hash(text: &str) -> String {
    format!("{:x}", Sha256::digest(text)).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_place_as_a_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine.json");
        for contents in [b"old".as_slice(), b"new", b"new"] {
            replace(&path, contents).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), contents);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_with_its_hash_is_read_as_it_was_written_and_refused_once_a_byte_of_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.engine.kernels");
        replace_hashed(&path, b"machine\ncode").unwrap();
        assert_eq!(read_hashed(&path).unwrap(), b"machine\ncode");
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read_hashed(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {place}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read_hashed(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read_hashed(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_replaced_file_may_be_read_by_whom_an_ordinary_one_may() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ordinary, replaced] = ["ordinary", "replaced"].map(|name| folder.path().join(name));
        std::fs::write(&ordinary, b"").unwrap();
        replace(&replaced, b"").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&replaced), mode(&ordinary));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_without_the_name_of_a_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("gone/kernels"), b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("partial"), "{error}");
    }
}
