//! The messages that the node would have published, as a file.

use super::plan::{Latency, Plan};
use super::simulation::Counts;
use crate::data::DatasetError;
use crate::data::mcap_writer::{McapWriter, OfferedQos, Topic};
use crate::data::messages::diagnostics::DiagnosticArray;
use crate::data::messages::outputs::{ActionChunk, Bool, Command, ModelInfo, StageLatency};
use crate::pipeline::Pipeline;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::Outcome;
use crate::robot::control::{Sent, SharedControl};
use crate::robot::health::Health;
use crate::robot::inputs::Inputs;
use crate::robot::model_facts::ModelFacts;
use crate::robot::reporting::chunk::{ChunkReport, e2e_ms};
use crate::robot::reporting::command::command;
use crate::robot::reporting::diagnostics::DiagnosticReport;
use crate::robot::reporting::model_info::model_info;
use crate::robot::reporting::record::SharedRecord;
use crate::robot::time::Now;
use crate::types::{StageTimes, Stamp};
use std::path::Path;
use std::time::Duration;

/// The messages of a node, as they go into a file.
pub struct Recording {
    writer: McapWriter,
    chunks: Topic<ActionChunk>,
    latencies: Topic<StageLatency>,
    diagnostics: Topic<DiagnosticArray>,
    infos: Topic<ModelInfo>,
    /// What the node says of its model once it is loaded; `None` once it has been said.
    info: Option<ModelInfo>,
    facts: ModelFacts,
    chunk_report: ChunkReport,
    diagnostic_report: DiagnosticReport,
    record: SharedRecord,
    latency: Latency,
    commands: Option<Commands>,
}

/// The topics of what is commanded.
struct Commands {
    control: SharedControl,
    frame_id: String,
    commands: Topic<Command>,
    stopped: Topic<Bool>,
    /// What was said last of whether the robot is stopped.
    said: Option<bool>,
}

impl Recording {
    /// Begins a file at `path`, of the topics that the node of `plan` has. Its plans are played by `control`, if they are.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(
        path: &Path,
        plan: &Plan,
        facts: &ModelFacts,
        pipeline: &Pipeline,
        control: Option<&SharedControl>,
    ) -> Result<Self, DatasetError> {
        let mut writer = McapWriter::create(path)?;
        let last_ten = OfferedQos { depth: 10, transient_local: false };
        let latched = OfferedQos { depth: 1, transient_local: true };
        let record = SharedRecord::default();
        record.lock().facts = Some(facts.clone());
        record.lock().runtime = Some(pipeline.runtime());
        let name = |topic: &str| plan.names.resolve(topic);
        let mut diagnostic_report = DiagnosticReport::new(plan.names.node(), &plan.config, record.clone());
        control.into_iter().for_each(|control| diagnostic_report.tell_of(control.clone()));
        let locked = control.map(SharedControl::lock);
        let controller = locked.as_ref().and_then(|control| control.controller());
        let info = model_info(&plan.config, &plan.facts, facts, pipeline, controller, Stamp::default());
        Ok(Self {
            chunks: writer.topic(&name("~/action_chunk"), last_ten)?,
            latencies: writer.topic(&name("~/stage_latency"), last_ten)?,
            diagnostics: writer.topic(&name("/diagnostics"), last_ten)?,
            infos: writer.topic(&name("~/model_info"), latched)?,
            commands: control.map(|control| Commands::create(&mut writer, plan, control)).transpose()?,
            info: Some(info),
            facts: facts.clone(),
            chunk_report: ChunkReport::new(&plan.config),
            diagnostic_report,
            record,
            latency: plan.latency,
            writer,
        })
    }

    /// Writes what the node publishes of an outcome at `now`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn answered(&mut self, outcome: &mut Outcome, now: Now) -> Result<(), DatasetError> {
        let inference = match &mut outcome.result {
            Ok(inference) => inference,
            Err(error) => {
                self.record.lock().failed(&error.to_string(), now.at);
                return Ok(());
            }
        };
        let measured = (inference.times, outcome.decoded);
        // What this machine took is no part of a result that can be reproduced.
        if let Latency::Fixed(latency) = self.latency {
            (inference.times, outcome.decoded) = (without_stages(latency), Duration::ZERO);
        }
        let Ok(inference) = &outcome.result else { return Ok(()) };
        let chunk = self.chunk_report.chunk(&self.facts, &outcome.observation, inference, now.stamp);
        let latency = self.chunk_report.latency(outcome, inference, now.stamp);
        self.record.lock().chunk_published(e2e_ms(outcome, inference), outcome.observation.age_ms(now.stamp));
        if let Ok(inference) = &mut outcome.result {
            (inference.times, outcome.decoded) = measured;
        }
        self.writer.write(&mut self.chunks, now.stamp, &chunk)?;
        self.writer.write(&mut self.latencies, now.stamp, &latency)
    }

    /// Writes what the node says of its model, once, and the diagnostics that are due.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn turn(&mut self, inputs: &Inputs, health: &Health, counts: Counts, now: Now) -> Result<(), DatasetError> {
        if let Some(mut info) = self.info.take() {
            info.header.stamp = now.stamp;
            self.writer.write(&mut self.infos, now.stamp, &info)?;
            self.ticked(None, now)?;
        }
        let mut record = self.record.lock();
        (record.superseded, record.withdrawn) = (counts.superseded, counts.withdrawn);
        drop(record);
        match self.diagnostic_report.when_due(inputs, health, now) {
            Some(report) => self.writer.write(&mut self.diagnostics, now.stamp, &report),
            None => Ok(()),
        }
    }

    /// Writes what the node publishes of a tick at which this was sent, if anything was.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ticked(&mut self, sent: Option<&Sent>, now: Now) -> Result<(), DatasetError> {
        let Some(Commands { control, frame_id, commands, stopped, said }) = &mut self.commands else { return Ok(()) };
        let control = control.lock();
        let is_stopped = control.halt().stopped().is_some();
        if said.replace(is_stopped) != Some(is_stopped) {
            self.writer.write(stopped, now.stamp, &Bool { data: is_stopped })?;
        }
        let Some(sent) = sent else { return Ok(()) };
        self.writer.write(commands, now.stamp, &command(&control, sent, now.stamp, frame_id))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), DatasetError> {
        self.writer.finish()
    }
}

impl Commands {
    fn create(writer: &mut McapWriter, plan: &Plan, control: &SharedControl) -> Result<Self, DatasetError> {
        let last_ten = OfferedQos { depth: 10, transient_local: false };
        let latched = OfferedQos { depth: 1, transient_local: true };
        let topic = if plan.config.shadow { "~/shadow/command" } else { "~/command" };
        Ok(Self {
            control: control.clone(),
            frame_id: plan.config.frame_id.clone(),
            commands: writer.topic(&plan.names.resolve(topic), last_ten)?,
            stopped: writer.topic(&plan.names.resolve("~/stopped"), latched)?,
            said: None,
        })
    }
}

/// The times of an inference of which only the whole is known.
fn without_stages(latency: Duration) -> StageTimes {
    StageTimes { e2e_ms: milliseconds(latency), ..StageTimes::default() }
}
