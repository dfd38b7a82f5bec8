//! The passes over a bag, one per backend.

use super::evidence::Evidence;
use super::feed::{Feed, Purpose};
use super::pass::{Findings, Kept, Pass};
use super::plan::Plan;
use super::playing::Playing;
use super::problems::Problems;
use super::recording::Recording;
use super::simulation::{Recorded, Simulation};
use super::timeline::Timeline;
use super::{Progress, Run};
use crate::config::ProprioSource;
use crate::data::bag::Bag;
use crate::offline::OfflineError;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::{Options, Pipeline, StateSpec};
use crate::robot::deployment;
use crate::robot::inputs::Inputs;
use crate::robot::model_facts::ModelFacts;
use crate::types::Stamp;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the passes of all backends have in common.
pub struct Passes<'p> {
    /// What to replay, and how.
    pub plan: &'p Plan,
    /// Its bag.
    pub bag: &'p Bag,
    /// The state that the checkpoint is fed.
    pub state: &'p StateSpec,
    /// What the bag says of the inferences that were made live.
    pub live: Recorded,
    /// What it says of when the node received its inputs.
    pub evidence: Option<Evidence>,
    /// Ends the pass when it is set.
    pub stop: &'p AtomicBool,
}

/// What a backend brings to its pass.
struct Model {
    pipeline: Pipeline,
    facts: ModelFacts,
}

impl Passes<'_> {
    /// Makes the pass of `backend`; without one, observations are only chosen. What a node would publish goes to
    /// `recording`, and what the model saw at the moments that the plan keeps to `keep`.
    ///
    /// # Errors
    /// As [`super::replay_keeping`].
    pub fn run(
        &self,
        backend: Option<&String>,
        recording: Option<&Path>,
        problems: &mut Problems,
        observe: &mut impl FnMut(Progress),
        keep: &mut impl FnMut(Kept) -> Result<(), OfflineError>,
    ) -> Result<Run, OfflineError> {
        let total_bytes = self.bag.bytes();
        observe(Progress { what: "loading", done_bytes: 0, total_bytes });
        let model = backend.map(|backend| self.model(backend)).transpose()?;
        let mut pass = self.pass(model.as_ref(), recording)?;
        let mut timeline = match &self.evidence {
            Some(evidence) => Timeline::corrected(evidence.clone()),
            None => Timeline::new(self.plan.clockwork),
        };
        let what = match (backend, self.plan.kept.is_empty()) {
            (Some(name), _) => name,
            (None, true) => "choosing observations",
            (None, false) => "reading observations",
        };
        let started = Instant::now();
        let mut feed = Feed::new(self.bag, self.plan, Purpose::Inputs { sim_time: self.plan.sim_time }, problems);
        let mut first: Option<Stamp> = None;
        let mut reader = self.bag.read(|topic| feed.wants(topic));
        'messages: loop {
            let next = reader.next();
            let has_ended = next.is_none();
            match next {
                Some(Ok(message)) => feed.read(&message, problems, |arrival| timeline.push(arrival)),
                Some(Err(problem)) => problems.add(problem),
                None => {}
            }
            while let Some(due) = timeline.pop(has_ended) {
                let first = *first.get_or_insert(due.at);
                let since = Duration::from_nanos(u64::try_from(due.at.nanos.saturating_sub(first.nanos)).unwrap_or(0));
                if self.plan.to.is_some_and(|to| since > to) || self.stop.load(Ordering::Relaxed) {
                    break 'messages;
                }
                if self.plan.as_recorded {
                    sleep_until(started + since.saturating_sub(self.plan.from), self.stop);
                }
                pass.take(due, problems)?;
                pass.take_kept().try_for_each(&mut *keep)?;
                observe(Progress { what, done_bytes: reader.position_bytes(), total_bytes });
            }
            if has_ended {
                break;
            }
        }
        pass.end(problems)?;
        pass.take_kept().try_for_each(&mut *keep)?;
        let findings = Findings { moved: timeline.moved(), ..pass.findings() };
        let inferred = findings.answers.iter().filter_map(|answer| answer.inferred());
        Ok(Run {
            backend: backend.cloned().unwrap_or_default(),
            // An empty sum of floats is negative zero.
            inferring_ms: inferred.map(|inferred| inferred.times.e2e_ms + inferred.decode_ms).sum::<f64>() + 0.0,
            findings,
            wall_ms: milliseconds(started.elapsed()),
            facts: model.map(|model| model.facts),
        })
    }

    fn model(&self, backend: &str) -> Result<Model, OfflineError> {
        let (plan, backend) = (self.plan, backend.to_owned());
        let pipeline = Pipeline::load(&Options { backend, ..plan.options.clone() })?;
        let facts = deployment::check(&plan.config, &pipeline)?;
        deployment::rehearse(&plan.config, &pipeline)?;
        Ok(Model { pipeline, facts })
    }

    /// A pass of which nothing has been made.
    fn pass<'m>(&self, model: Option<&'m Model>, recording: Option<&Path>) -> Result<Pass<'m>, OfflineError> {
        let plan = self.plan;
        let mut inputs = Inputs::new(&plan.config);
        if plan.config.proprio.source == ProprioSource::Proprio {
            inputs.expect_state(self.state);
        }
        let feedback = Feedback::new(&plan.config, self.state.channels());
        let pipeline = model.map(|model| &model.pipeline);
        let play = |model: &Model| Playing::of(&plan.config, &model.facts, &model.pipeline).transpose();
        let playing = model.and_then(play).transpose()?;
        let feedback = match &playing {
            Some(playing) => feedback.follow(playing.control().commanded()),
            None => feedback,
        };
        let mut simulation = Simulation::new(pipeline, feedback, plan.latency, plan.seed, self.live.clone());
        simulation.keep(plan.kept.clone());
        let control = playing.as_ref().map(Playing::control);
        let recording = recording
            .zip(model)
            .map(|(path, model)| Recording::create(path, plan, &model.facts, &model.pipeline, control))
            .transpose()?;
        let topics = self.bag.topics().iter().map(|topic| topic.name.clone()).collect();
        let mut pass = Pass::new(&plan.config, topics, inputs, simulation, plan.sim_time, plan.from, recording);
        playing.into_iter().for_each(|playing| pass.play(playing));
        pass.follow(self.evidence.iter().flat_map(Evidence::turns));
        Ok(pass)
    }
}

/// Sleeps until `moment`, or `stop` is set.
fn sleep_until(moment: Instant, stop: &AtomicBool) {
    const NAP: Duration = Duration::from_millis(50);
    while !stop.load(Ordering::Relaxed) {
        match moment.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return,
            left => std::thread::sleep(left.min(NAP)),
        }
    }
}
