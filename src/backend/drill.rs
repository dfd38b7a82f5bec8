//! Faults that are set off on purpose. A policy is wrapped, and does what a handle says at that moment: it answers late,
//! fails, answers NaN, hangs or panics.
//!
//! A drill disturbs nothing but what it is for: it begins once it is armed, which is after the parity check and the
//! rehearsal.

use super::path::Products;
use super::{BackendError, PolicyBackend, PolicyInputs};
use crate::config::{DrillConfig, DrillFault};
use crate::model::vlm::VlmTokens;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// The time between two looks at what is set, while an inference hangs or is delayed.
const POLL: Duration = Duration::from_millis(10);

/// What is in force while a drill is not armed.
const NOTHING: DrillConfig =
    DrillConfig { allowed: true, fault: DrillFault::None, latency: None, spike: None, spike_every: None, stall: None };

/// What is set off, shared by those who set it off and the policies that do it.
#[derive(Clone, Debug)]
pub struct Drill {
    settings: Arc<Mutex<DrillConfig>>,
    armed: Arc<AtomicBool>,
}

impl PartialEq for Drill {
    /// Two handles are equal if they set off the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.settings, &other.settings)
    }
}

impl Drill {
    /// A drill that sets off what `config` says once it is armed; `None` if no drill is allowed.
    pub fn allowed_by(config: &DrillConfig) -> Option<Self> {
        config.allowed.then(|| Self { settings: Arc::new(Mutex::new(*config)), armed: Arc::default() })
    }

    /// The same drill for another policy: what is set holds for both, but this one is not armed.
    pub fn unarmed(&self) -> Self {
        Self { settings: self.settings.clone(), armed: Arc::default() }
    }

    /// Sets off what `config` says from now on, also for an inference that hangs or is delayed at the moment.
    pub fn set(&self, config: &DrillConfig) {
        let before = std::mem::replace(&mut *self.settings.lock().unwrap_or_else(PoisonError::into_inner), *config);
        if before != *config {
            tracing::warn!("drill: {}", self.in_words());
        }
    }

    /// What is set off, in words; `None` if nothing is.
    pub fn told(&self) -> Option<String> {
        told(&self.settings())
    }

    /// Lets the policy do what is set, from now on.
    pub fn arm(&self) {
        tracing::warn!("faults of the policy may be set off on purpose (drill.allowed); drill: {}", self.in_words());
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Lets the policy do what it should, so that an inference that hangs comes to its end.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Wraps `policy` into one that does what this drill says.
    pub fn wrap(&self, policy: Box<dyn PolicyBackend>) -> Box<dyn PolicyBackend> {
        Box::new(DrillPolicy { policy, drill: self.clone(), inferences: 0 })
    }

    fn in_words(&self) -> String {
        self.told().unwrap_or_else(|| "none".to_owned())
    }

    fn settings(&self) -> DrillConfig {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a policy has to do now.
    fn in_force(&self) -> DrillConfig {
        if self.armed.load(Ordering::Relaxed) { self.settings() } else { NOTHING }
    }
}

/// What `config` sets off, in words.
fn told(config: &DrillConfig) -> Option<String> {
    let fault = (config.fault != DrillFault::None).then(|| config.fault.name().to_owned());
    let latency = config.latency.map(|latency| format!("{} ms late", latency.as_millis()));
    let spike = config.spike.zip(config.spike_every);
    let spike = spike.map(|(spike, every)| format!("{} ms late once in {every}", spike.as_millis()));
    let all: Vec<String> = [fault, latency, spike].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// How late inference `number`, counted from 1, has to be.
fn lateness(config: &DrillConfig, number: u64) -> Duration {
    let is_spike = config.spike_every.is_some_and(|every| number.is_multiple_of(every));
    config.latency.unwrap_or_default() + config.spike.filter(|_| is_spike).unwrap_or_default()
}

/// A policy that does what a drill says.
struct DrillPolicy {
    policy: Box<dyn PolicyBackend>,
    drill: Drill,
    /// The number of inferences so far.
    inferences: u64,
}

impl DrillPolicy {
    /// Waits for as long as this inference has to be late.
    fn be_late(&self) {
        let begun = Instant::now();
        loop {
            let left = lateness(&self.drill.in_force(), self.inferences).saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// The fault of this inference, once it is another one than to hang.
    fn fault_after_hanging(&self) -> DrillFault {
        loop {
            match self.drill.in_force().fault {
                DrillFault::Hang => std::thread::sleep(POLL),
                fault => return fault,
            }
        }
    }
}

impl PolicyBackend for DrillPolicy {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn engine_sha256(&self) -> Option<&str> {
        self.policy.engine_sha256()
    }

    fn recordings(&self) -> u64 {
        self.policy.recordings()
    }

    fn products(&self) -> Products {
        self.policy.products()
    }

    #[expect(clippy::panic, reason = "a panic is what is asked for")]
    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        self.inferences += 1;
        self.be_late();
        let noise = inputs.noise;
        match self.fault_after_hanging() {
            DrillFault::Error => Err(BackendError::Drill),
            DrillFault::Nan => Ok(Tensor::f_full(noise.size(), f64::NAN, (noise.kind(), noise.device()))?),
            DrillFault::Panic => panic!("a drill"),
            DrillFault::None | DrillFault::Hang => self.policy.generate(tokens, inputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(fault: DrillFault) -> DrillConfig {
        DrillConfig { fault, ..NOTHING }
    }

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    /// A policy that answers zeros.
    struct Zeros;

    impl PolicyBackend for Zeros {
        fn name(&self) -> &'static str {
            "zeros"
        }

        fn generate(&mut self, _: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
            Ok(inputs.noise.f_zeros_like()?)
        }
    }

    /// The first action of the next inference.
    fn first_action(policy: &mut dyn PolicyBackend) -> Result<f64, BackendError> {
        let one = Tensor::f_full([1, 1, 1], 1.0, (tch::Kind::Float, tch::Device::Cpu)).unwrap();
        let domain = Tensor::f_full([1], 0, (tch::Kind::Int64, tch::Device::Cpu)).unwrap();
        let tokens = VlmTokens { vlm_features: one.shallow_clone(), aux_visual_inputs: one.shallow_clone() };
        let inputs = PolicyInputs { domain: &domain, host_domain: &[0], proprio: &one, noise: &one, steps: 1 };
        Ok(policy.generate(&tokens, &inputs)?.f_double_value(&[0, 0, 0])?)
    }

    /// A drill that is armed, and the policy that it makes fail.
    fn armed(config: DrillConfig) -> (Drill, Box<dyn PolicyBackend>) {
        let drill = Drill::allowed_by(&config).unwrap();
        drill.arm();
        let policy = drill.wrap(Box::new(Zeros));
        (drill, policy)
    }

    #[test]
    fn there_is_no_drill_unless_one_is_allowed() {
        assert_eq!(Drill::allowed_by(&DrillConfig { allowed: false, ..setting(DrillFault::Error) }), None);
    }

    #[test]
    fn a_drill_that_sets_nothing_off_changes_neither_actions_nor_name() {
        let (_, mut policy) = armed(NOTHING);
        assert_eq!((first_action(policy.as_mut()).unwrap(), policy.name()), (0.0, "zeros"));
    }

    #[test]
    fn the_fault_error_is_an_error_that_says_it_is_a_drill() {
        let (_, mut policy) = armed(setting(DrillFault::Error));
        let error = first_action(policy.as_mut()).unwrap_err();
        assert!(matches!(error, BackendError::Drill) && !error.loses_device());
        assert!(error.to_string().contains("drill"), "{error}");
    }

    #[test]
    fn the_fault_nan_is_an_answer_of_nan() {
        let (_, mut policy) = armed(setting(DrillFault::Nan));
        assert!(first_action(policy.as_mut()).unwrap().is_nan());
    }

    #[test]
    #[should_panic(expected = "a drill")]
    fn the_fault_panic_is_a_panic_that_says_it_is_a_drill() {
        let (_, mut policy) = armed(setting(DrillFault::Panic));
        let _ = first_action(policy.as_mut());
    }

    /// Whether an inference that hangs ends after `let_go`, and with what.
    fn after_hanging(let_go: impl FnOnce(&Drill)) -> Result<f64, BackendError> {
        let (drill, mut policy) = armed(setting(DrillFault::Hang));
        let hanging = std::thread::spawn(move || first_action(policy.as_mut()));
        std::thread::sleep(5 * POLL);
        assert!(!hanging.is_finished(), "it hangs");
        let_go(&drill);
        hanging.join().unwrap()
    }

    #[test]
    fn the_fault_hang_lasts_until_something_else_is_set() {
        assert_eq!(after_hanging(|drill| drill.set(&NOTHING)).unwrap(), 0.0);
        assert!(after_hanging(|drill| drill.set(&setting(DrillFault::Error))).is_err());
    }

    #[test]
    fn the_fault_hang_ends_when_the_drill_does() {
        assert_eq!(after_hanging(Drill::disarm).unwrap(), 0.0);
    }

    #[test]
    fn nothing_is_disturbed_before_a_drill_is_armed() {
        let drill = Drill::allowed_by(&DrillConfig { latency: ms(600_000), ..setting(DrillFault::Panic) }).unwrap();
        let mut policy = drill.wrap(Box::new(Zeros));
        assert_eq!(first_action(policy.as_mut()).unwrap(), 0.0);
    }

    #[test]
    fn arming_the_drill_of_one_policy_does_not_arm_that_of_another() {
        let (drill, _) = armed(setting(DrillFault::Error));
        let other = drill.unarmed();
        let mut policy = other.wrap(Box::new(Zeros));
        assert!(first_action(policy.as_mut()).is_ok());
        other.arm();
        assert!(first_action(policy.as_mut()).is_err(), "what is set holds for both");
    }

    #[test]
    fn a_latency_makes_every_inference_late() {
        let (_, mut policy) = armed(DrillConfig { latency: ms(50), ..NOTHING });
        for _ in 0..2 {
            let begun = Instant::now();
            first_action(policy.as_mut()).unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(50));
        }
    }

    #[test]
    fn a_latency_that_is_taken_back_ends_for_the_inference_that_is_late_as_well() {
        let (drill, mut policy) = armed(DrillConfig { latency: ms(600_000), ..NOTHING });
        let late = std::thread::spawn(move || first_action(policy.as_mut()));
        std::thread::sleep(2 * POLL);
        drill.set(&NOTHING);
        assert_eq!(late.join().unwrap().unwrap(), 0.0);
    }

    #[test]
    fn a_spike_comes_on_top_of_the_latency_once_in_so_many_inferences() {
        let config = DrillConfig { latency: ms(20), spike: ms(300), spike_every: Some(3), ..NOTHING };
        let late_ms = [1, 2, 3, 4, 5, 6].map(|number| lateness(&config, number).as_millis());
        assert_eq!(late_ms, [20, 20, 320, 20, 20, 320]);
        assert_eq!(lateness(&DrillConfig { spike_every: None, ..config }, 3), Duration::from_millis(20));
    }

    #[test]
    fn what_is_set_off_is_told_in_words() {
        let config = DrillConfig { latency: ms(20), spike: ms(300), spike_every: Some(3), ..setting(DrillFault::Nan) };
        assert_eq!(told(&config).as_deref(), Some("nan, 20 ms late, 300 ms late once in 3"));
        assert_eq!(told(&NOTHING), None);
        assert_eq!(told(&DrillConfig { spike: ms(300), ..NOTHING }), None, "no inference is due for it");
    }
}
