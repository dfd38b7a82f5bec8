//! The addresses of an engine's tensors, of which TensorRT is told only those that have changed. Needs no GPU.

use crate::backend::engine::IoTensor;

/// TensorRT requires addresses that are multiples of this, bytes.
const ALIGNMENT: usize = 256;

/// The operations of an engine that [`Steps`] uses.
pub trait Context {
    /// Lets the engine read or write `name` at `address` from the next step on.
    ///
    /// # Errors
    /// The library's message.
    fn set_address(&mut self, name: &str, address: usize) -> Result<(), String>;

    /// Queues a step.
    ///
    /// # Errors
    /// The library's message.
    fn enqueue(&mut self) -> Result<(), String>;
}

/// A tensor that a step passes to the engine.
pub trait Memory {
    /// Address of its first element on the device.
    fn address(&self) -> usize;
    /// Number of its elements.
    fn elements(&self) -> usize;
    /// Why an engine cannot use it as `expected`; `None` if it can.
    fn misfit(&self, expected: &IoTensor) -> Option<String>;
}

/// An engine with the last address of each of its tensors, so that a step tells TensorRT only about those that have
/// moved.
pub struct Steps<C> {
    context: C,
    bound: Vec<Bound>,
}

struct Bound {
    tensor: IoTensor,
    /// Address and number of elements that TensorRT was last told.
    at: Option<(usize, usize)>,
}

impl<C: Context> Steps<C> {
    /// Wraps the engine of `context`, which has these tensors.
    pub fn new(context: C, tensors: &[IoTensor]) -> Self {
        let bound = tensors.iter().map(|tensor| Bound { tensor: tensor.clone(), at: None }).collect();
        Self { context, bound }
    }

    /// Queues a step on the tensors that are given by name.
    ///
    /// # Errors
    /// A tensor that the engine cannot use, one too few or too many, or the library's message.
    pub fn run<M: Memory>(&mut self, given: impl Iterator<Item = (&'static str, M)>) -> Result<(), String> {
        let mut count = 0;
        for (name, memory) in given {
            let Some(bound) = self.bound.iter_mut().find(|bound| bound.tensor.name == name) else {
                return Err(format!("the engine has no tensor `{name}`"));
            };
            bound.bind(&memory, &mut self.context)?;
            count += 1;
        }
        if count != self.bound.len() {
            return Err(format!("a step brings {count} tensors, the engine has {}", self.bound.len()));
        }
        self.context.enqueue()
    }
}

impl Bound {
    fn bind(&mut self, memory: &impl Memory, context: &mut impl Context) -> Result<(), String> {
        let at = Some((memory.address(), memory.elements()));
        if self.at == at {
            return Ok(());
        }
        self.at = None;
        let (name, address) = (&self.tensor.name, memory.address());
        if let Some(misfit) = memory.misfit(&self.tensor) {
            return Err(format!("`{name}` {misfit}"));
        }
        if address == 0 || !address.is_multiple_of(ALIGNMENT) {
            return Err(format!("`{name}` lies at {address:#x}, which is not a multiple of {ALIGNMENT} bytes"));
        }
        context.set_address(name, address)?;
        self.at = at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::{Direction, Element};

    /// Logs its calls, and refuses the tensor of one name.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<String>,
        refuses: Option<&'static str>,
    }

    impl Context for Recorder {
        fn set_address(&mut self, name: &str, address: usize) -> Result<(), String> {
            self.calls.push(format!("{name} {address:#x}"));
            if self.refuses == Some(name) { Err("no".to_owned()) } else { Ok(()) }
        }

        fn enqueue(&mut self) -> Result<(), String> {
            self.calls.push("enqueue".to_owned());
            Ok(())
        }
    }

    struct At(usize, Vec<i64>);

    impl Memory for At {
        fn address(&self) -> usize {
            self.0
        }

        fn elements(&self) -> usize {
            self.1.iter().product::<i64>() as usize
        }

        fn misfit(&self, expected: &IoTensor) -> Option<String> {
            (self.1 != expected.shape).then(|| format!("is {:?}, expected {:?}", self.1, expected.shape))
        }
    }

    fn steps() -> Steps<Recorder> {
        let tensor = |name: &str, direction, shape: &[i64]| IoTensor {
            name: name.to_owned(),
            direction,
            dtype: Element::F32,
            shape: shape.to_vec(),
        };
        let tensors = [
            tensor("x_t", Direction::Input, &[1, 30, 20]),
            tensor("t", Direction::Input, &[1]),
            tensor("action", Direction::Output, &[1, 30, 20]),
        ];
        Steps::new(Recorder::default(), &tensors)
    }

    /// Runs a step whose actions go to `action`. Returns the calls that reached the engine.
    fn step(steps: &mut Steps<Recorder>, x_t: usize, action: usize) -> Result<Vec<String>, String> {
        let chunk = || vec![1, 30, 20];
        let given = [("x_t", At(x_t, chunk())), ("t", At(0x800, vec![1])), ("action", At(action, chunk()))];
        steps.run(given.into_iter())?;
        Ok(std::mem::take(&mut steps.context.calls))
    }

    #[test]
    fn the_first_step_tells_every_address_and_the_next_only_what_has_moved() {
        let mut steps = steps();
        let first = step(&mut steps, 0x100, 0x1000).unwrap();
        assert_eq!(first, ["x_t 0x100", "t 0x800", "action 0x1000", "enqueue"]);
        assert_eq!(step(&mut steps, 0x100, 0x1000).unwrap(), ["enqueue"]);
        assert_eq!(step(&mut steps, 0x1000, 0x100).unwrap(), ["x_t 0x1000", "action 0x100", "enqueue"]);
    }

    #[test]
    fn an_address_that_is_not_aligned_is_refused_by_name_and_nothing_is_queued() {
        let mut steps = steps();
        for address in [0, 0x180] {
            let reason = step(&mut steps, address, 0x1000).unwrap_err();
            assert!(reason.contains("`x_t`") && reason.contains("256"), "{reason}");
        }
        assert!(steps.context.calls.is_empty());
    }

    #[test]
    fn a_smaller_tensor_at_the_same_address_is_noticed() {
        let mut steps = steps();
        step(&mut steps, 0x100, 0x1000).unwrap();
        let reason = steps.run([("x_t", At(0x100, vec![1, 10, 20]))].into_iter()).unwrap_err();
        assert_eq!(reason, "`x_t` is [1, 10, 20], expected [1, 30, 20]");
    }

    #[test]
    fn a_step_with_a_tensor_too_few_or_unknown_is_never_queued() {
        let mut steps = steps();
        let reason = steps.run([("t", At(0x800, vec![1]))].into_iter()).unwrap_err();
        assert_eq!(reason, "a step brings 1 tensors, the engine has 3");
        let reason = steps.run([("aux_tokens", At(0x800, vec![1]))].into_iter()).unwrap_err();
        assert_eq!(reason, "the engine has no tensor `aux_tokens`");
        assert!(!steps.context.calls.contains(&"enqueue".to_owned()));
    }

    #[test]
    fn an_address_that_the_engine_refused_is_told_again() {
        let mut steps = steps();
        steps.context.refuses = Some("t");
        assert_eq!(step(&mut steps, 0x100, 0x1000).unwrap_err(), "no");
        steps.context.refuses = None;
        steps.context.calls.clear();
        assert_eq!(step(&mut steps, 0x100, 0x1000).unwrap(), ["t 0x800", "action 0x1000", "enqueue"]);
    }
}
