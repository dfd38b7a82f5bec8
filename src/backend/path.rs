//! The path that a network takes: what executes its operators. Paths give the same answer at very different speed.

use std::fmt::{Display, Formatter, Result};
use std::ops::Add;

/// What executes one part of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operators {
    /// This project's kernels, recorded.
    OwnKernels,
    /// libtorch's, one after the other.
    Libtorch,
    /// libtorch's, recorded, because this project's kernels are not for `reason`.
    RecordedLibtorch {
        /// A dtype or a size.
        reason: String,
    },
    /// An engine's; libtorch computes what lies around it.
    Engine,
}

/// How many shapes of matrix products are multiplied by whom, as far as they were recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Products {
    /// By this project's kernel.
    pub own: usize,
    /// By cuBLASLt.
    pub cublaslt: usize,
}

impl Add for Products {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { own: self.own + other.own, cublaslt: self.cublaslt + other.cublaslt }
    }
}

/// What executes both parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionPath {
    /// Images and words → tokens.
    pub vlm: Operators,
    /// Tokens and noise → actions.
    pub policy: Operators,
    /// Who multiplies matrices among own kernels, in what is recorded by now.
    pub products: Products,
}

impl ExecutionPath {
    /// The same for both parts.
    pub fn of_both(operators: Operators) -> Self {
        Self::new(operators.clone(), operators)
    }

    /// Of a vision-language part and a policy of which nothing is recorded yet.
    pub fn new(vlm: Operators, policy: Operators) -> Self {
        Self { vlm, policy, products: Products::default() }
    }

    /// Whether the vision-language part is recorded, for each set of views apart.
    pub fn records_views(&self) -> bool {
        matches!(self.vlm, Operators::OwnKernels | Operators::RecordedLibtorch { .. })
    }

    /// Why the network does not run as fast as its backend can; `None` if it does.
    pub fn slow_because(&self) -> Option<&str> {
        [&self.policy, &self.vlm].into_iter().find_map(|operators| match operators {
            Operators::RecordedLibtorch { reason } => Some(reason.as_str()),
            _ => None,
        })
    }
}

impl Display for Operators {
    fn fmt(&self, f: &mut Formatter) -> Result {
        match self {
            Self::OwnKernels => f.write_str("own kernels"),
            Self::Libtorch => f.write_str("libtorch's operators"),
            Self::RecordedLibtorch { reason } => write!(f, "libtorch's operators, recorded: no kernels for {reason}"),
            Self::Engine => f.write_str("engine"),
        }
    }
}

impl Display for ExecutionPath {
    fn fmt(&self, f: &mut Formatter) -> Result {
        self.policy.fmt(f)?;
        if self.vlm != self.policy {
            write!(f, "; vision-language part: {}", self.vlm)?;
        }
        match self.products {
            Products { own: 0, cublaslt: 0 } => Ok(()),
            Products { own, cublaslt } => write!(f, "; shapes of products: {own} own, {cublaslt} cuBLASLt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Operators {
        Operators::RecordedLibtorch { reason: "single precision".to_owned() }
    }

    #[test]
    fn a_path_names_what_executes_both_parts_once_and_what_differs_apart() {
        assert_eq!(ExecutionPath::of_both(Operators::OwnKernels).to_string(), "own kernels");
        let mixed = ExecutionPath::new(recorded(), Operators::Engine);
        let text = "engine; vision-language part: libtorch's operators, recorded: no kernels for single precision";
        assert_eq!(mixed.to_string(), text);
    }

    #[test]
    fn a_path_that_was_recorded_counts_who_multiplies() {
        let products = Products { own: 4, cublaslt: 20 } + Products { own: 1, cublaslt: 0 };
        let path = ExecutionPath { products, ..ExecutionPath::of_both(Operators::OwnKernels) };
        assert_eq!(path.to_string(), "own kernels; shapes of products: 5 own, 20 cuBLASLt");
    }

    #[test]
    fn only_a_network_that_left_the_kernels_is_slow() {
        let path = ExecutionPath::new;
        assert_eq!(ExecutionPath::of_both(Operators::OwnKernels).slow_because(), None);
        assert_eq!(ExecutionPath::of_both(Operators::Libtorch).slow_because(), None);
        assert_eq!(path(Operators::OwnKernels, Operators::Engine).slow_because(), None);
        assert_eq!(path(recorded(), Operators::Engine).slow_because(), Some("single precision"));
    }
}
