//! What helps against frames that get lost between two processes.

use crate::config::environment::{SHARED_MEMORY_OF_A_PARTICIPANT, free_shared_memory, is_fast_dds};

const NO_ROOM: &str = "/dev/shm has too little room for the camera driver's shared memory: `xvla doctor` tells what holds it, \
     `fastdds shm clean` removes what killed participants left; then start the driver again";

const NO_PROFILE: &str =
    "start the camera driver with the shared-memory profile (FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds_shm.xml)";

/// What helps against lost frames, as things stand now, if the middleware is Fast DDS.
///
/// Without room Fast DDS goes on with a small segment or over the network, and says so only in words of its own.
pub fn loss_remedy() -> Option<&'static str> {
    let is_short = || free_shared_memory().is_some_and(|free| free < SHARED_MEMORY_OF_A_PARTICIPANT);
    is_fast_dds().then(|| if is_short() { NO_ROOM } else { NO_PROFILE })
}
