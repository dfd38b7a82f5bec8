//! Every answer of a replay as arrays.

use super::Run;
use super::answer::{Answer, Inferred};
use super::played::{Commanded, Played};
use crate::data::DatasetError;
use crate::data::npy::{NpyArray, NpyData};
use crate::data::npz::write_npz;
use crate::types::{HostArray, Stamp};
use std::path::Path;

/// Writes every answer of `run` to `path`.
///
/// | key | shape | what |
/// |---|---|---|
/// | `reference_ns` | [N] int64 | the moment that the observation stands for |
/// | `oldest_ns` | [N] int64 | the stamp of its oldest input |
/// | `published_ns` | [N] int64 | when its chunk was published |
/// | `camera_ns` | [N, V] int64 | the stamps of the frames used, 0 for a view that is masked |
/// | `actions` | [N, T, A'] float32 | what a robot executes |
/// | `actions_raw` | [N, T, A] float32 | the network's output |
/// | `seed` | [N] int64 | the seed of the noise, its bits as a signed number |
///
/// Where nothing was inferred, the last three are left out. Where plans were played, there are as well, of every command:
///
/// | key | shape | what |
/// |---|---|---|
/// | `commands` | [M, C] float32 | what was sent |
/// | `command_ns` | [M] int64 | its tick in ROS time |
/// | `command_age_ns` | [M] int64 | the age of the observation that its plan was made of |
/// | `command_sequence` | [M] int64 | the number of its chunk |
/// | `command_step` | [M] float32 | where it lies in the plan: 0 is the first step |
/// | `command_verdict` | [M] uint8 | 0 for the plan's own, 1 for clamped, 2 for held |
///
/// # Errors
/// The file cannot be written.
pub fn write_arrays(path: &Path, run: &Run) -> Result<(), DatasetError> {
    let answers = &run.findings.answers;
    let with_actions: Vec<&Answer> = answers.iter().filter(|answer| answer.inferred().is_some()).collect();
    let rows: Vec<&Answer> = if run.backend.is_empty() { answers.iter().collect() } else { with_actions };
    let stamps = |of: fn(&Answer) -> Stamp| {
        let values = rows.iter().map(|answer| of(answer).nanos).collect();
        NpyArray { shape: vec![rows.len()], data: NpyData::I64(values) }
    };
    let views = rows.first().map_or(0, |answer| answer.chosen.cameras.len());
    let cameras = rows.iter().flat_map(|answer| &answer.chosen.cameras);
    let cameras = cameras.map(|stamp| stamp.unwrap_or_default().nanos).collect();
    let mut arrays = vec![
        ("reference_ns", stamps(|answer| answer.chosen.reference)),
        ("oldest_ns", stamps(|answer| answer.chosen.oldest)),
        ("published_ns", stamps(|answer| answer.published)),
        ("camera_ns", NpyArray { shape: vec![rows.len(), views], data: NpyData::I64(cameras) }),
    ];
    if !run.backend.is_empty() {
        let inferred = || rows.iter().filter_map(|answer| answer.inferred());
        let stacked = |of: fn(&Inferred) -> &HostArray| {
            let one = inferred().next().map(|inferred| of(inferred).shape.clone()).unwrap_or_else(|| vec![1, 0, 0]);
            let shape = std::iter::once(rows.len()).chain(one.into_iter().skip(1)).collect();
            NpyArray {
                shape,
                data: NpyData::F32(inferred().flat_map(|inferred| of(inferred).data.iter().copied()).collect()),
            }
        };
        arrays.push(("actions", stacked(|inferred| &inferred.actions)));
        arrays.push(("actions_raw", stacked(|inferred| &inferred.actions_raw)));
        let seeds = inferred().map(|inferred| inferred.seed.cast_signed()).collect();
        arrays.push(("seed", NpyArray { shape: vec![rows.len()], data: NpyData::I64(seeds) }));
    }
    arrays.extend(run.findings.played.iter().flat_map(commands));
    write_npz(path, &arrays)
}

/// The arrays of what was commanded.
fn commands(played: &Played) -> [(&'static str, NpyArray); 6] {
    let count = played.commands.len();
    let integers = |of: fn(&Commanded) -> i64| NpyData::I64(played.commands.iter().map(of).collect());
    let column = |data: NpyData| NpyArray { shape: vec![count], data };
    let shape = vec![count, played.channels.count()];
    [
        ("commands", NpyArray { shape, data: NpyData::F32(played.values.clone()) }),
        ("command_ns", column(integers(|command| command.stamp.nanos))),
        ("command_age_ns", column(integers(|command| command.plan_age_ns))),
        ("command_sequence", column(integers(|command| command.sequence.cast_signed()))),
        ("command_step", column(NpyData::F32(played.commands.iter().map(|command| command.step).collect()))),
        ("command_verdict", column(NpyData::U8(played.commands.iter().map(|command| command.verdict as u8).collect()))),
    ]
}
