//! A graph under construction: nodes in the order in which they run, and the constants they use.

use super::IoTensor;
use tch::{TchError, Tensor};

/// A value in the graph, by its name.
pub type Value = String;

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Text.
    Text(&'static str),
}

/// One operator at work.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(super) name: Value,
    pub(super) operator: &'static str,
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

/// Nodes, constants, inputs and outputs.
#[derive(Debug, Default)]
pub struct Graph {
    pub(super) opset: i64,
    pub(super) nodes: Vec<Node>,
    pub(super) constants: Vec<(Value, Tensor)>,
    pub(super) tensors: Vec<IoTensor>,
}

impl Graph {
    /// A graph without nodes for `opset`, whose inputs and outputs are `tensors`.
    pub(super) fn new(opset: i64, tensors: Vec<IoTensor>) -> Self {
        Self { opset, tensors, ..Self::default() }
    }

    /// What goes in and out, inputs first.
    pub fn tensors(&self) -> &[IoTensor] {
        &self.tensors
    }

    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> u64 {
        self.constants.iter().map(|(_, tensor)| bytes(tensor)).sum()
    }

    /// A constant on the host, kept as it is stored: dtype and shape of `tensor`.
    pub(super) fn constant(&mut self, name: impl Into<Value>, tensor: &Tensor) -> Result<Value, TchError> {
        let name = name.into();
        self.constants.push((name.clone(), tensor.f_to(tch::Device::Cpu)?.f_contiguous()?));
        Ok(name)
    }

    /// Whole numbers as a constant, for operators that take shapes as inputs.
    pub(super) fn integers(&mut self, name: impl Into<Value>, values: &[i64]) -> Result<Value, TchError> {
        self.constant(name, &Tensor::f_from_slice(values)?)
    }

    /// A node whose only output has its own name.
    pub(super) fn node(
        &mut self,
        name: impl Into<Value>,
        operator: &'static str,
        inputs: &[&Value],
        attributes: &[(&'static str, Attribute)],
    ) -> Value {
        let name = name.into();
        self.nodes.push(Node {
            name: name.clone(),
            operator,
            inputs: inputs.iter().map(|&input| input.clone()).collect(),
            outputs: vec![name.clone()],
            attributes: attributes.to_vec(),
        });
        name
    }

    /// Parts of `input` along `axis`, as large as the constant `sizes` says.
    pub(super) fn split<const N: usize>(
        &mut self,
        name: &str,
        parts: [&str; N],
        [input, sizes]: [&Value; 2],
        axis: i64,
    ) -> [Value; N] {
        let outputs = parts.map(|part| format!("{name}.{part}"));
        self.nodes.push(Node {
            name: name.to_owned(),
            operator: "Split",
            inputs: vec![input.clone(), sizes.clone()],
            outputs: outputs.to_vec(),
            attributes: vec![("axis", Attribute::Int(axis))],
        });
        outputs
    }
}

/// Size of a tensor's elements together.
pub(super) fn bytes(tensor: &Tensor) -> u64 {
    tensor.numel() as u64 * tensor.kind().elt_size_in_bytes() as u64
}
