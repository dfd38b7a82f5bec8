//! Hands the node's own messages, plain values, to r2r's types.

use super::convert::{duration_ns, header, time};
use crate::data::messages::{diagnostics as plain, outputs};
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::xvla_ros::msg::{ActionChunk, Command, Fact, ModelInfo, StageLatency};

/// A chunk of actions.
pub fn action_chunk(plain: outputs::ActionChunk) -> ActionChunk {
    ActionChunk {
        header: header(plain.header),
        oldest_stamp: time(plain.oldest_stamp),
        input_names: plain.input_names,
        input_stamps: plain.input_stamps.into_iter().map(time).collect(),
        sequence: plain.sequence,
        seed: plain.seed,
        step_dt: duration_ns(plain.step_dt_ns),
        chunk_length: plain.chunk_length,
        action_dim: plain.action_dim,
        action_mode: plain.action_mode,
        action_names: plain.action_names,
        domain_id: plain.domain_id,
        instruction: plain.instruction,
        backend: plain.backend,
        checkpoint_sha256: plain.checkpoint_sha256,
        engine_sha256: plain.engine_sha256,
        observation_age: duration_ns(plain.observation_age_ns),
        actions: plain.actions,
    }
}

/// What the robot is to do at one tick.
pub fn command(plain: outputs::Command) -> Command {
    Command {
        header: header(plain.header),
        sequence: plain.sequence,
        step: plain.step,
        plan_age: duration_ns(plain.plan_age_ns),
        verdict: plain.verdict,
        reason: plain.reason,
        values: plain.values,
    }
}

/// Where the time of an inference went.
pub fn stage_latency(plain: outputs::StageLatency) -> StageLatency {
    StageLatency {
        header: header(plain.header),
        sequence: plain.sequence,
        backend: plain.backend,
        steps: plain.steps,
        queue_ms: plain.queue_ms,
        preprocess_ms: plain.preprocess_ms,
        vlm_ms: plain.vlm_ms,
        policy_ms: plain.policy_ms,
        postprocess_ms: plain.postprocess_ms,
        e2e_ms: plain.e2e_ms,
        observation_age_ms: plain.observation_age_ms,
    }
}

/// What has been loaded.
pub fn model_info(plain: outputs::ModelInfo) -> ModelInfo {
    let fact = |fact: outputs::Fact| Fact { name: fact.name, value: fact.value, origin: fact.origin };
    ModelInfo {
        header: header(plain.header),
        checkpoint: plain.checkpoint,
        checkpoint_sha256: plain.checkpoint_sha256,
        action_mode: plain.action_mode,
        action_names: plain.action_names,
        command_names: plain.command_names,
        limits: plain.limits,
        chunk_length: plain.chunk_length,
        steps: plain.steps,
        cameras: plain.cameras,
        state: plain.state,
        processors: plain.processors,
        facts: plain.facts.into_iter().map(fact).collect(),
    }
}

/// A report of health.
pub fn diagnostics(plain: plain::DiagnosticArray) -> DiagnosticArray {
    let pair = |pair: plain::KeyValue| KeyValue { key: pair.key, value: pair.value };
    let status = |status: plain::DiagnosticStatus| DiagnosticStatus {
        level: status.level,
        name: status.name,
        message: status.message,
        hardware_id: status.hardware_id,
        values: status.values.into_iter().map(pair).collect(),
    };
    DiagnosticArray { header: header(plain.header), status: plain.status.into_iter().map(status).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::messages::Read;
    use r2r::WrappedTypesupport;
    use std::path::Path;

    fn fixture(case: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cdr");
        std::fs::read(folder.join(format!("{case}.le.cdr"))).unwrap()
    }

    #[test]
    fn a_message_from_plain_values_is_the_one_that_rclpy_wrote() {
        for case in ["action_chunk", "action_chunk_empty"] {
            let bytes = fixture(case);
            let ours = action_chunk(outputs::ActionChunk::from_cdr(&bytes).unwrap());
            let rclpys = ActionChunk::from_serialized_bytes(&bytes).unwrap();
            assert_eq!(format!("{ours:?}"), format!("{rclpys:?}"), "NaN is no value to compare");
        }
        for case in ["command", "command_empty"] {
            let bytes = fixture(case);
            let ours = command(outputs::Command::from_cdr(&bytes).unwrap());
            let rclpys = Command::from_serialized_bytes(&bytes).unwrap();
            assert_eq!(format!("{ours:?}"), format!("{rclpys:?}"), "NaN is no value to compare");
        }
        let bytes = fixture("model_info");
        let ours = model_info(outputs::ModelInfo::from_cdr(&bytes).unwrap());
        assert_eq!(ours, ModelInfo::from_serialized_bytes(&bytes).unwrap());
        let bytes = fixture("diagnostics");
        let ours = diagnostics(plain::DiagnosticArray::from_cdr(&bytes).unwrap());
        assert_eq!(ours, DiagnosticArray::from_serialized_bytes(&bytes).unwrap());
    }

    #[test]
    fn a_latency_from_plain_values_has_every_time_in_its_place() {
        let bytes = fixture("stage_latency");
        let ours = stage_latency(outputs::StageLatency::from_cdr(&bytes).unwrap());
        let rclpys = StageLatency::from_serialized_bytes(&bytes).unwrap();
        assert_eq!(format!("{ours:?}"), format!("{rclpys:?}"), "NaN is no value to compare");
    }
}
