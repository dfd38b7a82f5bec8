//! Files that are there whole or not at all.

use std::fs::File;
use std::path::Path;
use tempfile::NamedTempFile;

/// A new file in the folder of `path`, which vanishes unless it is given that name. Opened here, because a file that
/// `tempfile` opens is readable by its owner only.
pub(super) fn partial_file(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new(""));
    tempfile::Builder::new().prefix(".").suffix(".partial").make_in(folder, |partial| File::create_new(partial))
}
