//! Whether Fast DDS, ROS 2's default middleware, has the shared memory that camera images need.

/// What a participant takes of /dev/shm with `config/fastdds_shm.xml`: its segment and its ports, bytes.
const PARTICIPANT: u64 = 34 << 20;

const NO_ROOM: &str = "/dev/shm has too little room for the camera driver's shared memory: `xvla doctor` tells what holds it, \
     `fastdds shm clean` removes what killed participants left; then start the driver again";

const NO_PROFILE: &str =
    "start the camera driver with the shared-memory profile (FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds_shm.xml)";

/// What helps against lost frames, as things stand now, if the middleware is Fast DDS.
///
/// Without room Fast DDS goes on with a small segment or over the network, and says so only in words of its own.
pub fn loss_remedy() -> Option<&'static str> {
    let is_fast_dds = std::env::var("RMW_IMPLEMENTATION").map_or(true, |name| name.contains("fastrtps"));
    let is_short = || free_bytes().is_some_and(|free| free < PARTICIPANT);
    is_fast_dds.then(|| if is_short() { NO_ROOM } else { NO_PROFILE })
}

fn free_bytes() -> Option<u64> {
    let of = rustix::fs::statvfs("/dev/shm").ok()?;
    Some(of.f_bavail.saturating_mul(of.f_frsize))
}
