//! What `doctor` says about /dev/shm, where Fast DDS keeps the segments that camera images pass through.

use super::Finding;
use std::env;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use xvla_ros::config::environment::{SHARED_MEMORY_OF_A_PARTICIPANT as PARTICIPANT, free_shared_memory, is_fast_dds};

const SHARED_MEMORY: &str = "/dev/shm";

/// Fast DDS keeps its segments in /dev/shm. The probe is a file without a name: anyone may write to that folder, and a
/// name that can be guessed could be a link to somewhere else.
pub fn access() -> Finding {
    let usable = tempfile::tempfile_in(SHARED_MEMORY).and_then(|mut probe| probe.write_all(b"probe"));
    match usable {
        Ok(()) => judge(in_container(), shared_memory_mount().as_ref()),
        Err(error) => Finding::note(
            "shared memory",
            format!("{SHARED_MEMORY}: {error}"),
            "mount a tmpfs there (containers: --ipc=host, or --shm-size=256m where all participants are in one)",
        ),
    }
}

/// The file system at /dev/shm.
struct Mount {
    /// What is mounted: `shm` for one that Docker, Podman or Kubernetes made for a container, whatever its size; with
    /// `--ipc=host` it is the host's, which is called `tmpfs`.
    source: String,
    /// Its limit in bytes, if it has one.
    bytes: Option<u64>,
}

/// What a /dev/shm that can be written means for participants elsewhere on this machine.
///
/// Fast DDS takes whoever has the same network addresses for a neighbour with the same /dev/shm. In a container with the
/// network of its host that is wrong: topics match, and no data comes.
fn judge(in_container: bool, mount: Option<&Mount>) -> Finding {
    let size = mount.and_then(|mount| mount.bytes).map_or(String::new(), |bytes| format!(", {} MiB", bytes >> 20));
    let found = format!("{SHARED_MEMORY} can be written{size}");
    if !in_container {
        return Finding::ok("shared memory", found);
    }
    match mount {
        Some(mount) if mount.source != "shm" => {
            Finding::ok("shared memory", format!("{found}; in a container, but mounted from outside"))
        }
        _ => Finding::note(
            "shared memory",
            format!(
                "{found}; it is this container's own, or its pod's: participants elsewhere do not see it, so that their topics match and no data comes"
            ),
            "start this container and those of the cameras with --ipc=host, or leave shared memory out of the Fast DDS \
             profiles of both sides",
        ),
    }
}

/// Whether this process seems to run in a container: the marks that Docker, Podman and systemd-nspawn leave.
fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
        || env::var_os("container").is_some()
}

/// What is mounted at /dev/shm; `None` if it is a part of another file system.
fn shared_memory_mount() -> Option<Mount> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    // A later mount covers those before it.
    let mount = mounts.into_iter().rfind(|mount| mount.mount_point == Path::new(SHARED_MEMORY))?;
    let bytes = mount.super_options.get("size").and_then(|size| size_in_bytes(size.as_deref()?));
    Some(Mount { source: mount.mount_source?, bytes })
}

/// The size of a tmpfs as its mount options tell it: a number that may end in `k`, `m` or `g`.
fn size_in_bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.chars().last()? {
        'k' => (text.strip_suffix('k')?, 10),
        'm' => (text.strip_suffix('m')?, 20),
        'g' => (text.strip_suffix('g')?, 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether another participant finds room, and what those that were killed have left.
pub fn room() -> Finding {
    if !is_fast_dds() {
        return Finding::ok("shm room", "not asked for: only Fast DDS keeps segments there");
    }
    judge_room(free_shared_memory(), &Left::in_folder(Path::new(SHARED_MEMORY)))
}

/// Segments whose participants are gone.
///
/// A participant removes its segment as it ends, and one that is killed does not: every start after it takes another.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    segments: usize,
    bytes: u64,
}

impl Left {
    fn in_folder(folder: &Path) -> Self {
        let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        files.filter(|file| is_segment(&file.file_name().to_string_lossy()) && has_no_owner(&file.path())).fold(
            Self::default(),
            |left, file| {
                let bytes = file.metadata().map_or(0, |data| data.blocks().saturating_mul(512));
                Self { segments: left.segments + 1, bytes: left.bytes.saturating_add(bytes) }
            },
        )
    }
}

/// Whether that is what Fast DDS calls a segment: 16 hexadecimal digits. Ports and locks have longer names.
fn is_segment(name: &str) -> bool {
    let digits = ["fastrtps_", "fastdds_"].iter().find_map(|prefix| name.strip_prefix(prefix));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Whether the lock beside a segment, which its owner holds while it lives, is free. It is given back at once.
fn has_no_owner(segment: &Path) -> bool {
    let mut lock = segment.as_os_str().to_owned();
    lock.push("_el");
    File::open(lock).is_ok_and(|lock| lock.try_lock().is_ok())
}

fn judge_room(free: Option<u64>, left: &Left) -> Finding {
    let mib = |bytes: u64| bytes >> 20;
    let mut found = free.map_or_else(|| "room not known".to_owned(), |free| format!("{} MiB free", mib(free)));
    let is_short = free.is_some_and(|free| free < PARTICIPANT);
    if is_short {
        let needed = mib(PARTICIPANT);
        found += &format!(", less than the {needed} MiB of one more participant, whose images would get lost");
    }
    if left.segments > 0 {
        let (held, segments) = (mib(left.bytes), left.segments);
        found += &format!("; {held} MiB held by {segments} segments of participants that were killed");
        return Finding::note("shm room", found, "`fastdds shm clean` removes what nobody owns");
    }
    match is_short {
        true => Finding::note("shm room", found, "mount more there (containers: --shm-size=256m), or end participants"),
        false => Finding::ok("shm room", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(source: &str) -> Mount {
        Mount { source: source.to_owned(), bytes: Some(64 << 20) }
    }

    #[test]
    fn a_containers_own_shared_memory_is_noted_with_what_it_does() {
        for mount in [Some(&mounted("shm")), None] {
            let line = judge(true, mount).line();
            assert!(line.starts_with("note") && line.contains("topics match and no data comes"), "{line}");
            assert!(line.contains("--ipc=host"), "{line}");
        }
    }

    #[test]
    fn shared_memory_that_is_the_hosts_is_fine() {
        assert!(judge(true, Some(&mounted("tmpfs"))).line().starts_with("ok"));
        assert!(judge(false, Some(&mounted("shm"))).line().starts_with("ok"));
        assert!(judge(false, None).line().starts_with("ok"));
    }

    #[test]
    fn the_size_of_a_tmpfs_is_read_in_its_units() {
        assert_eq!(
            ["65536k", "64m", "1g", "4096", "50%", ""].map(size_in_bytes),
            [Some(64 << 20), Some(64 << 20), Some(1 << 30), Some(4096), None, None]
        );
    }

    #[test]
    fn a_segment_is_left_if_nobody_holds_the_lock_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, bytes: usize| std::fs::write(folder.path().join(name), vec![1; bytes]).unwrap();
        for name in ["fastrtps_03184aeebac8f80b", "fastrtps_6b983a8155167720"] {
            make(name, 1 << 20);
            make(&format!("{name}_el"), 0);
        }
        for other in ["fastrtps_port7000", "fastrtps_port7000_el", "lttng-ust-wait-6"] {
            make(other, 1 << 20);
        }
        let held = File::open(folder.path().join("fastrtps_6b983a8155167720_el")).unwrap();
        held.try_lock().unwrap();

        let left = Left::in_folder(folder.path());
        assert_eq!((left.segments, left.bytes >> 20), (1, 1));
    }

    #[test]
    fn room_that_is_short_or_held_by_the_dead_is_noted_with_the_way_out() {
        let left = Left { segments: 3, bytes: 100 << 20 };
        let held = judge_room(Some(1 << 30), &left).line();
        assert!(held.starts_with("note") && held.contains("1024 MiB free; 100 MiB held by 3 segments"), "{held}");
        assert!(held.contains("fastdds shm clean"), "{held}");

        let short = judge_room(Some(20 << 20), &Left::default()).line();
        assert!(
            short.starts_with("note") && short.contains("20 MiB free") && short.contains("images would get lost"),
            "{short}"
        );
        assert!(judge_room(Some(1 << 30), &Left::default()).line().starts_with("ok"));
    }
}
