//! What `doctor` says about ROS 2: environment, messages, middleware, and whether camera images will arrive.

use super::Finding;
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Shared memory that camera images need: at 512 KiB, Fast DDS's default, an image of 640×480 does not fit and is
/// cut into pieces, more than half of which get lost at 30 Hz.
const ENOUGH_SHARED_MEMORY: u64 = 8 << 20;
const SET_UP: &str = "source /opt/ros/<distro>/setup.bash, or scripts/env.sh of this package";

/// Every ROS finding.
pub fn findings() -> Vec<Finding> {
    vec![node(), distribution(), messages(), middleware(), profile(), shared_memory()]
}

/// Whether the node was built, and stands beside this program.
fn node() -> Finding {
    let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.join("xvla_node")));
    match beside.filter(|path| path.is_file()) {
        Some(path) => Finding::ok("xvla_node", path.display().to_string()),
        None => Finding::note("xvla_node", "not built: needs the feature `ros`", "`make build` builds it"),
    }
}

fn distribution() -> Finding {
    let prefixes = prefixes();
    match (env::var("ROS_DISTRO"), prefixes.iter().find(|prefix| !prefix.is_dir())) {
        (Err(_), _) => Finding::note("ros", "no ROS_DISTRO in this shell", SET_UP),
        (Ok(distro), _) if prefixes.is_empty() => {
            Finding::note("ros", format!("{distro}, but AMENT_PREFIX_PATH is empty"), SET_UP)
        }
        (Ok(distro), Some(missing)) => {
            let found = format!("{distro}, but {} of AMENT_PREFIX_PATH does not exist", missing.display());
            Finding::note("ros", found, SET_UP)
        }
        (Ok(distro), None) => {
            let places: Vec<String> = prefixes.iter().map(|prefix| prefix.display().to_string()).collect();
            Finding::ok("ros", format!("{distro} at {}", places.join(":")))
        }
    }
}

fn messages() -> Finding {
    let place = prefixes().into_iter().map(|prefix| prefix.join("share/xvla_ros/msg")).find(|path| path.is_dir());
    match place {
        Some(path) => Finding::ok("messages", path.display().to_string()),
        None => Finding::note(
            "messages",
            "xvla_ros is not in AMENT_PREFIX_PATH",
            "`make build`, then source scripts/env.sh",
        ),
    }
}

fn middleware() -> Finding {
    match env::var("RMW_IMPLEMENTATION") {
        Ok(name) => Finding::ok("middleware", name),
        Err(_) => Finding::ok("middleware", "RMW_IMPLEMENTATION is not set: the distribution's default"),
    }
}

/// The Fast DDS profile that lets camera images through.
fn profile() -> Finding {
    let remedy = "set FASTRTPS_DEFAULT_PROFILES_FILE to config/fastdds_shm.xml for the node and the cameras";
    let variable = ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"]
        .iter()
        .find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
    let Some(path) = variable.map(PathBuf::from) else {
        return Finding::note("dds profile", "none: with Fast DDS's defaults camera images get lost", remedy);
    };
    let place = path.display();
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Finding::note("dds profile", format!("{place} cannot be read"), remedy);
    };
    match segment_size(&text) {
        Some(bytes) if bytes >= ENOUGH_SHARED_MEMORY => {
            Finding::ok("dds profile", format!("{place}, {} MiB of shared memory", bytes >> 20))
        }
        Some(bytes) => Finding::note("dds profile", format!("{place} has {bytes} bytes of shared memory only"), remedy),
        None => Finding::note("dds profile", format!("{place} sets no segment_size for shared memory"), remedy),
    }
}

/// The first `<segment_size>` of a Fast DDS profile, bytes.
fn segment_size(xml: &str) -> Option<u64> {
    let (_, after) = xml.split_once("<segment_size>")?;
    after.split_once('<')?.0.trim().parse().ok()
}

/// Fast DDS keeps its segments in /dev/shm. The probe is a file without a name: anyone may write to that folder, and a
/// name that can be guessed could be a link to somewhere else.
fn shared_memory() -> Finding {
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

const SHARED_MEMORY: &str = "/dev/shm";

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

fn prefixes() -> Vec<PathBuf> {
    let list = env::var_os("AMENT_PREFIX_PATH").unwrap_or_default();
    env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_the_shared_memory_segment_is_read_from_a_profile() {
        let xml = "<transport_descriptor><segment_size> 33554432 </segment_size></transport_descriptor>";
        assert_eq!(segment_size(xml), Some(33_554_432));
        assert_eq!(segment_size("<profiles/>"), None);
    }

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
}
