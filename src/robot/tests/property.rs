//! What holds for whatever happens.

use super::{Bench, EPOCH_MS};
use crate::types::Stamp;
use proptest::prelude::*;

/// Something that happens to the inputs.
#[derive(Clone, Debug)]
enum Happening {
    Wait(i64),
    Frame { camera: usize, lag_ms: i64 },
    Joints { lag_ms: i64 },
    Observe,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let lag = prop_oneof![6 => 0_i64..40, 1 => -2_000_i64..2_000];
    let happening = prop_oneof![
        (0_i64..60).prop_map(Happening::Wait),
        (0_usize..2, lag.clone()).prop_map(|(camera, lag_ms)| Happening::Frame { camera, lag_ms }),
        lag.prop_map(|lag_ms| Happening::Joints { lag_ms }),
        Just(Happening::Observe),
    ];
    proptest::collection::vec(happening, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_observation_is_older_than_its_limits_or_in_the_future_or_repeats_a_frame(happenings in happenings()) {
        let mut bench = Bench::new();
        bench.ms = 10_000;
        let (mut used, mut last_joints_ms) = (Vec::new(), None);
        for happening in happenings {
            match happening {
                Happening::Wait(ms) => bench.ms += ms,
                Happening::Frame { camera, lag_ms } => bench.frame(camera, bench.ms - lag_ms),
                Happening::Joints { lag_ms } => {
                    bench.joints(&["a", "b"], &[0.0, 1.0], bench.ms - lag_ms);
                    last_joints_ms = Some(bench.ms);
                }
                Happening::Observe => {
                    let may_act = bench.health().may_act;
                    let Some(selection) = bench.observe() else { continue };
                    let ms = |stamp: Stamp| stamp.nanos / 1_000_000 - EPOCH_MS;
                    let reference = ms(selection.reference());
                    prop_assert!(may_act, "health and selection disagree");
                    prop_assert!(reference <= bench.ms, "a plan would be anchored in the future");
                    for (camera, view) in selection.views.iter().enumerate() {
                        let stamp = ms(view.as_ref().unwrap().image.stamp);
                        prop_assert!(bench.ms - stamp <= 500 && reference - stamp <= 50);
                        // Every image has bytes of its own.
                        let image = view.as_ref().unwrap().image.value.data.clone();
                        prop_assert!(!used.contains(&image), "frame {stamp} of camera {camera} was used twice");
                        used.push(image);
                    }
                    let state = ms(selection.state[0].stamp);
                    prop_assert!((reference - state).abs() <= 500);
                    prop_assert!(bench.ms - last_joints_ms.unwrap() <= 500);
                }
            }
        }
        for camera in bench.inputs.cameras() {
            let frames = camera.frames;
            let accounted = frames.used + frames.skipped + frames.repeated + camera.waiting() as u64;
            prop_assert_eq!(camera.topic.received, accounted + camera.topic.dropped_invalid);
        }
    }
}
