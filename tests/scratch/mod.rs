//! What outlasts a single test but not its program: folders and processes that several tests share.
//!
//! They live in a `static`, which is never dropped, so a shell waits for the end of the program, however it ends, and
//! clears up after it.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A folder for this test program alone, removed when the program has ended.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<(TempDir, Child)> = OnceLock::new();
    let (folder, _) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let cleaner = afterwards("rm -rf", folder.path().as_os_str());
        (folder, cleaner)
    });
    folder.path()
}

/// A shell that runs `command` on `argument` once this program has ended, even if it was killed: it waits for the end
/// of its standard input, which the kernel closes. It is in a process group of its own, so that Ctrl-C passes it by.
pub fn afterwards(command: &str, argument: impl AsRef<OsStr>) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read -r _; {command} \"$0\"")])
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}
