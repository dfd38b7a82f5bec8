//! What `doctor` says about ROS 2: environment, messages, middleware, and whether camera images will arrive.

#[path = "shared_memory.rs"]
mod shared_memory;

use super::Finding;
use std::env;
use std::path::PathBuf;

/// Shared memory that camera images need: at 512 KiB, Fast DDS's default, an image of 640×480 does not fit and is
/// cut into pieces, more than half of which get lost at 30 Hz.
const ENOUGH_SHARED_MEMORY: u64 = 8 << 20;
const SET_UP: &str = "source /opt/ros/<distro>/setup.bash, or scripts/env.sh of this package";

/// Every ROS finding.
pub fn findings() -> Vec<Finding> {
    vec![node(), distribution(), messages(), middleware(), profile(), shared_memory::access(), shared_memory::room()]
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
}
