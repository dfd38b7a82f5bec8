//! A graph under construction: nodes in the order in which they run, and the constants they use.

use super::IoTensor;
use tch::{TchError, Tensor};

/// A value in the graph, by its name.
pub type Value = String;

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A single-precision number.
    Float(f32),
    /// A list of integers.
    Ints(Vec<i64>),
    /// Text, UTF-8.
    Text(&'static str),
}

/// One application of an operator, with its inputs, outputs and attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub(super) name: Value,
    pub(super) operator: &'static str,
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
}

/// The nodes, constants, inputs and outputs of an ONNX graph.
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

    /// Inputs and outputs of the graph, inputs first.
    pub fn tensors(&self) -> &[IoTensor] {
        &self.tensors
    }

    /// Size of all constants together, bytes.
    pub fn constant_bytes(&self) -> u64 {
        self.constants.iter().map(|(_, tensor)| bytes(tensor)).sum()
    }

    /// Adds a constant with the dtype and shape of `tensor`, moved to the host.
    pub(super) fn constant(&mut self, name: impl Into<Value>, tensor: &Tensor) -> Result<Value, TchError> {
        let name = name.into();
        self.constants.push((name.clone(), tensor.f_to(tch::Device::Cpu)?.f_contiguous()?));
        Ok(name)
    }

    /// Adds integers as a constant, for operators that take shapes as inputs.
    pub(super) fn integers(&mut self, name: impl Into<Value>, values: &[i64]) -> Result<Value, TchError> {
        self.constant(name, &Tensor::f_from_slice(values)?)
    }

    /// Adds a node with a single output, which bears the node's name.
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

    /// Splits `input` along `axis` into parts of the sizes in the constant `sizes`.
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

/// Size of all elements of a tensor, bytes.
pub(super) fn bytes(tensor: &Tensor) -> u64 {
    tensor.numel() as u64 * tensor.kind().elt_size_in_bytes() as u64
}
