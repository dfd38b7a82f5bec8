//! Writes the soft-prompted transformer of one domain, node by node. It mirrors [`Policy::step`] and is tested against
//! it.

use super::graph::{Attribute, Graph, Value};
use super::{Direction, Element, FP8_OPSET, IoTensor, OPSETS, Precision};
use crate::model::action_space::ActionSpace;
use crate::model::config::PolicyConfig;
use crate::model::layers::{LAYER_NORM_EPS, LayerNorm, Linear};
use crate::model::onnx::ExportError;
use crate::model::policy::{Block, Policy, frequencies};
use crate::model::weight::{Fp8, Weight};
use tch::{Device, Kind, TchError, Tensor};

/// The earliest opset with Gelu as an operator.
const GELU_OPSET: i64 = 20;

/// How a policy is exported.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Numbers of tokens: of the first view with the instruction (N + L), and of the other views ((V − 1)·N).
    pub tokens: [i64; 2],
    /// The precision that the graph computes in.
    pub precision: Precision,
    /// ONNX opset, within [`OPSETS`].
    pub opset: i64,
}

/// The graph of `policy`, which must be specialised to one domain. `space` says which channels are hidden from the
/// network.
///
/// # Errors
/// [`ExportError::Unsupported`] for a plan that cannot be exported, [`ExportError::Libtorch`] for an operation that
/// libtorch refuses.
pub fn graph(policy: &Policy, space: &ActionSpace, plan: &Plan) -> Result<Graph, ExportError> {
    check(policy, plan)?;
    let tensors = tensors(&policy.config, plan.tokens, plan.precision);
    let mut writer = Writer { graph: Graph::new(plan.opset, tensors), policy, plan, element: plan.precision.element() };
    writer.step(space)?;
    Ok(writer.graph)
}

/// Inputs and outputs of the graph, for the numbers of tokens of [`Plan::tokens`].
pub fn tensors(config: &PolicyConfig, tokens: [i64; 2], precision: Precision) -> Vec<IoTensor> {
    let input = |name: &str, dtype, shape: &[i64]| IoTensor {
        name: name.to_owned(),
        direction: Direction::Input,
        dtype,
        shape: shape.to_vec(),
    };
    let actions = [1, config.chunk_length, config.action_dim];
    let mut tensors = vec![input("vlm_tokens", precision.element(), &[1, tokens[0], config.hidden])];
    if tokens[1] > 0 {
        tensors.push(input("aux_tokens", precision.element(), &[1, tokens[1], config.hidden]));
    }
    tensors.push(input("x_t", Element::F32, &actions));
    if config.proprio_dim > 0 {
        tensors.push(input("proprio", Element::F32, &[1, config.proprio_dim]));
    }
    tensors.push(input("t", Element::F32, &[1]));
    tensors.push(IoTensor { direction: Direction::Output, ..input("action", Element::F32, &actions) });
    tensors
}

fn check(policy: &Policy, plan: &Plan) -> Result<(), ExportError> {
    let unsupported = |reason: String| Err(ExportError::Unsupported { reason });
    if !OPSETS.contains(&plan.opset) {
        return unsupported(format!("opset {}: choose one of {} to {}", plan.opset, OPSETS.start(), OPSETS.end()));
    }
    for (name, matrix) in fp8_matrices(policy) {
        if plan.opset < FP8_OPSET {
            return unsupported(format!("FP8 with opset {}: it needs opset {FP8_OPSET} or later", plan.opset));
        }
        let scale = operand_scales(matrix, plan.precision.element())[0];
        let smallest = f64::from(half::f16::MIN_POSITIVE);
        if plan.precision == Precision::F16 && scale < smallest {
            return unsupported(format!(
                "`{name}`: the scale {scale:.1e} of its operands is below {smallest:.1e}, the smallest normal number of \
                 f16: take bf16 or f32, or make the checkpoint again with --keep {name}"
            ));
        }
    }
    Ok(())
}

/// The matrices in FP8, with the names of their layers as in the original release.
fn fp8_matrices(policy: &Policy) -> impl Iterator<Item = (String, &Fp8)> {
    let layers = policy.blocks.iter().enumerate().flat_map(|(index, block)| {
        let Block { qkv, proj, mlp, .. } = block;
        [("attn.qkv", qkv), ("attn.proj", proj), ("mlp.fc1", &mlp.fc1), ("mlp.fc2", &mlp.fc2)]
            .map(|(part, layer)| (format!("transformer.blocks.{index}.{part}"), layer))
    });
    layers.filter_map(|(name, layer)| match &layer.weight {
        Weight::Fp8(matrix) => Some((name, matrix)),
        _ => None,
    })
}

/// The scales that a quantised input and a matrix are dequantised with, in numbers that `element` holds. A product only
/// depends on the product of both, which in 16 bits is shared out evenly: one of them alone may be too small for f16.
fn operand_scales(matrix: &Fp8, element: Element) -> [f64; 2] {
    let [input, weight] = [matrix.input_scale, matrix.weight_scale].map(f64::from);
    let root = (input * weight).sqrt();
    match element {
        Element::F32 => [input, weight],
        // The second makes up for the rounding of the first.
        Element::F16 => [root, input * weight / half::f16::from_f64(root).to_f64()],
        Element::Bf16 => [root, input * weight / half::bf16::from_f64(root).to_f64()],
    }
}

/// Adds the nodes of a policy to a graph.
struct Writer<'a> {
    graph: Graph,
    policy: &'a Policy,
    plan: &'a Plan,
    element: Element,
}

impl Writer<'_> {
    fn step(&mut self, space: &ActionSpace) -> Result<(), TchError> {
        let mut hidden = self.sequence(space)?;
        for (index, block) in self.policy.blocks.iter().enumerate() {
            let is_last = index + 1 == self.policy.blocks.len();
            hidden = self.block(index, block, &hidden, is_last)?;
        }
        let normed = self.layer_norm("norm", &self.policy.norm, &hidden)?;
        let decoded = self.linear("action_decoder", &self.policy.action_decoder.of(0)?, &normed)?;
        self.cast_to("action".to_owned(), &decoded, Kind::Float);
        Ok(())
    }

    /// Encoded actions, tokens and soft prompts, with positions: [1, T + M + S, H].
    fn sequence(&mut self, space: &ActionSpace) -> Result<Value, TchError> {
        let config = &self.policy.config;
        let (length, hidden) = (config.chunk_length, config.hidden);
        let encoder = self.policy.action_encoder.of(0)?;
        let mut parts =
            vec![self.encoded_actions(space, &encoder.weight.to_dense()?.f_tr()?)?, "vlm_tokens".to_owned()];
        if self.plan.tokens[1] > 0 {
            parts.push("aux_tokens".to_owned());
        }

        // The positions of the actions include the action encoder's bias, which saves a node. Soft prompts have no
        // positions.
        let tokens = length + self.plan.tokens.iter().sum::<i64>();
        let positions = self.policy.positions.f_narrow(1, 0, tokens)?;
        let mut of_actions = positions.f_narrow(1, 0, length)?;
        if let Some(bias) = &encoder.bias {
            of_actions = of_actions.f_add(&bias.f_view([1, 1, -1])?.f_expand([1, length, hidden], false)?)?;
        }
        let mut shift = vec![of_actions, positions.f_narrow(1, length, tokens - length)?];
        if let Some(prompts) = &self.policy.soft_prompts {
            let prompts = prompts.of(0)?.f_unsqueeze(0)?;
            shift.push(prompts.f_zeros_like()?);
            parts.push(self.constant("soft_prompts", &prompts)?);
        }
        let shift = self.constant("positions", &Tensor::f_cat(&shift, 1)?)?;
        let parts: Vec<&Value> = parts.iter().collect();
        let joined = self.graph.node("tokens", "Concat", &parts, &[("axis", Attribute::Int(1))]);
        Ok(self.graph.node("sequence", "Add", &[&joined, &shift], &[]))
    }

    /// x_t·Wₓ + proprio·Wₚ + time·Wₜ: the action encoder, whose input is the concatenation of the three.
    fn encoded_actions(&mut self, space: &ActionSpace, matrix: &Tensor) -> Result<Value, TchError> {
        let config = &self.policy.config;
        let (action_dim, proprio_dim, time_dim) = (config.action_dim, config.proprio_dim, config.time_dim);
        let visible_rows = |first: i64, count: i64| -> Result<Tensor, TchError> {
            let visible = space.visible(count, matrix.kind(), Device::Cpu)?.f_unsqueeze(1)?;
            matrix.f_narrow(0, first, count)?.f_to(Device::Cpu)?.f_mul(&visible)
        };
        let x_t = self.cast("x_t");
        let mut encoded = self.affine("action_encoder.x_t", &x_t, &visible_rows(0, action_dim)?, None)?;
        if proprio_dim > 0 {
            let proprio = self.cast("proprio");
            let rows = visible_rows(action_dim, proprio_dim)?;
            let shift = self.affine("action_encoder.proprio", &proprio, &rows, None)?;
            encoded = self.graph.node("action_encoder.with_proprio", "Add", &[&encoded, &shift], &[]);
        }
        let time = self.time_embedding()?;
        let rows = matrix.f_narrow(0, action_dim + proprio_dim, time_dim)?;
        let shift = self.affine("action_encoder.time", &time, &rows, None)?;
        Ok(self.graph.node("action_encoder.with_time", "Add", &[&encoded, &shift], &[]))
    }

    /// [1, time_dim]: cosines, sines, and a zero if the width is odd. It is computed in single precision, as in the
    /// reference.
    fn time_embedding(&mut self) -> Result<Value, TchError> {
        let width = self.policy.config.time_dim;
        let frequencies = Tensor::f_from_slice(&frequencies(width))?.f_view([1, -1])?;
        let frequencies = self.graph.constant("time.frequencies", &frequencies)?;
        let angles = self.graph.node("time.angles", "Mul", &[&"t".to_owned(), &frequencies], &[]);
        let mut parts = vec![
            self.graph.node("time.cos", "Cos", &[&angles], &[]),
            self.graph.node("time.sin", "Sin", &[&angles], &[]),
        ];
        if width % 2 == 1 {
            parts.push(self.graph.constant("time.padding", &Tensor::f_zeros([1, 1], (Kind::Float, Device::Cpu))?)?);
        }
        let parts: Vec<&Value> = parts.iter().collect();
        let embedding = self.graph.node("time.embedding", "Concat", &parts, &[("axis", Attribute::Int(1))]);
        Ok(self.cast(&embedding))
    }

    /// [1, n, H] → [1, n, H], or [1, T, H] from the last block, because only the actions' tokens are decoded.
    fn block(&mut self, index: usize, block: &Block, input: &Value, is_last: bool) -> Result<Value, TchError> {
        let name = |part: &str| format!("blocks.{index}.{part}");
        let normed = self.layer_norm(&name("norm1"), &block.norm1, input)?;
        let qkv = self.linear(&name("attn.qkv"), &block.qkv, &normed)?;
        let [mut query, key, value] = self.thirds(&name("attn"), &qkv)?;
        let mut residual = input.clone();
        if is_last {
            query = self.actions_of(&name("attn.query_of_actions"), &query)?;
            residual = self.actions_of(&name("actions"), input)?;
        }
        let mixed = self.attention(&name("attn"), [&query, &key, &value], block.heads())?;
        let mixed = self.linear(&name("attn.proj"), &block.proj, &mixed)?;
        let hidden = self.graph.node(name("attended"), "Add", &[&residual, &mixed], &[]);

        let normed = self.layer_norm(&name("norm2"), &block.norm2, &hidden)?;
        let wide = self.linear(&name("mlp.fc1"), &block.mlp.fc1, &normed)?;
        let wide = self.gelu(&name("mlp.gelu"), &wide)?;
        let narrow = self.linear(&name("mlp.fc2"), &block.mlp.fc2, &wide)?;
        Ok(self.graph.node(name("output"), "Add", &[&hidden, &narrow], &[]))
    }

    /// [1, n, 3·H] → three of [1, n, H].
    fn thirds(&mut self, name: &str, qkv: &Value) -> Result<[Value; 3], TchError> {
        let hidden = self.policy.config.hidden;
        let sizes = self.graph.integers(format!("{name}.sizes"), &[hidden; 3])?;
        Ok(self.graph.split(name, ["query", "key", "value"], [qkv, &sizes], 2))
    }

    /// The first T tokens: [1, n, H] → [1, T, H].
    fn actions_of(&mut self, name: &str, tokens: &Value) -> Result<Value, TchError> {
        let length = self.policy.config.chunk_length;
        let [start, end, axis] = [("start", 0), ("end", length), ("axis", 1)]
            .map(|(part, value)| self.graph.integers(format!("{name}.{part}"), &[value]));
        Ok(self.graph.node(name, "Slice", &[tokens, &start?, &end?, &axis?], &[]))
    }

    /// softmax(q·kᵀ/√d)·v for every head: [1, m, H] and twice [1, n, H] → [1, m, H].
    fn attention(&mut self, name: &str, qkv: [&Value; 3], heads: i64) -> Result<Value, TchError> {
        let hidden = self.policy.config.hidden;
        let head_dim = hidden / heads;
        let split = self.graph.integers(format!("{name}.heads"), &[1, -1, heads, head_dim])?;
        let [query, key, value] =
            [("q", qkv[0], [0, 2, 1, 3]), ("k", qkv[1], [0, 2, 3, 1]), ("v", qkv[2], [0, 2, 1, 3])].map(
                |(part, tensor, axes)| {
                    let parts = self.graph.node(format!("{name}.{part}.parts"), "Reshape", &[tensor, &split], &[]);
                    let perm = [("perm", Attribute::Ints(axes.to_vec()))];
                    self.graph.node(format!("{name}.{part}.heads"), "Transpose", &[&parts], &perm)
                },
            );
        let scale = self.scalar(&format!("{name}.scale"), 1.0 / (head_dim as f64).sqrt())?;
        let query = self.graph.node(format!("{name}.q.scaled"), "Mul", &[&query, &scale], &[]);
        let scores = self.graph.node(format!("{name}.scores"), "MatMul", &[&query, &key], &[]);
        let axis = [("axis", Attribute::Int(-1))];
        let weights = self.graph.node(format!("{name}.weights"), "Softmax", &[&scores], &axis);
        let mixed = self.graph.node(format!("{name}.mixed"), "MatMul", &[&weights, &value], &[]);
        let perm = [("perm", Attribute::Ints(vec![0, 2, 1, 3]))];
        let mixed = self.graph.node(format!("{name}.tokens"), "Transpose", &[&mixed], &perm);
        let join = self.graph.integers(format!("{name}.joined"), &[1, -1, hidden])?;
        Ok(self.graph.node(format!("{name}.output"), "Reshape", &[&mixed, &join], &[]))
    }

    /// The tanh approximation of GELU, written out for opsets without the operator.
    fn gelu(&mut self, name: &str, input: &Value) -> Result<Value, TchError> {
        if self.plan.opset >= GELU_OPSET {
            let tanh = [("approximate", Attribute::Text("tanh"))];
            return Ok(self.graph.node(name, "Gelu", &[input], &tanh));
        }
        // x·(½ + ½·tanh(√(2/π)·(x + 0.044715·x³)))
        let [cubic, root, half] = [("cubic", 0.044_715), ("root", (2.0 / std::f64::consts::PI).sqrt()), ("half", 0.5)]
            .map(|(part, value)| self.scalar(&format!("{name}.{part}"), value));
        let (cubic, root, half) = (cubic?, root?, half?);
        let graph = &mut self.graph;
        let square = graph.node(format!("{name}.square"), "Mul", &[input, input], &[]);
        let cube = graph.node(format!("{name}.cube"), "Mul", &[&square, input], &[]);
        let cube = graph.node(format!("{name}.scaled_cube"), "Mul", &[&cube, &cubic], &[]);
        let sum = graph.node(format!("{name}.sum"), "Add", &[input, &cube], &[]);
        let inner = graph.node(format!("{name}.inner"), "Mul", &[&sum, &root], &[]);
        let tanh = graph.node(format!("{name}.tanh"), "Tanh", &[&inner], &[]);
        let scaled = graph.node(format!("{name}.half_tanh"), "Mul", &[&tanh, &half], &[]);
        let gate = graph.node(format!("{name}.gate"), "Add", &[&scaled, &half], &[]);
        Ok(graph.node(name, "Mul", &[input, &gate], &[]))
    }

    /// Mean and variance are computed in single precision: TensorRT accumulates in the type that it is given.
    fn layer_norm(&mut self, name: &str, norm: &LayerNorm, input: &Value) -> Result<Value, TchError> {
        let weight = self.graph.constant(format!("{name}.weight"), &norm.weight.f_to_kind(Kind::Float)?)?;
        let bias = self.graph.constant(format!("{name}.bias"), &norm.bias.f_to_kind(Kind::Float)?)?;
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(LAYER_NORM_EPS as f32))];
        let wide = self.widened(&format!("{name}.wide_input"), input);
        let inputs = [&wide, &weight, &bias];
        let normed = self.graph.node(format!("{name}.normed"), "LayerNormalization", &inputs, &attributes);
        Ok(self.cast(&normed))
    }

    fn linear(&mut self, name: &str, linear: &Linear, input: &Value) -> Result<Value, TchError> {
        let bias = linear.bias.as_ref();
        match &linear.weight {
            Weight::Fp8(matrix) => self.fp8_affine(name, input, matrix, bias),
            weight => self.affine(name, input, &weight.to_dense()?.f_tr()?, bias),
        }
    }

    /// q(input / s)·s · (W·t) + bias, where QuantizeLinear saturates and rounds to the nearest even as [`Fp8`] does, in
    /// single precision. A library with FP8 products finds one where both operands of a product are dequantised and
    /// nothing lies between, so what is dequantised has the graph's type.
    fn fp8_affine(
        &mut self,
        name: &str,
        input: &Value,
        matrix: &Fp8,
        bias: Option<&Tensor>,
    ) -> Result<Value, TchError> {
        let single = (Kind::Float, Device::Cpu);
        let scale = Tensor::f_full([], f64::from(matrix.input_scale), single)?;
        let scale = self.graph.constant(format!("{name}.input_scale"), &scale)?;
        let zero = Tensor::f_zeros([], single)?.f_to_kind(Kind::Float8e4m3fn)?;
        let zero = self.graph.constant(format!("{name}.input_zero"), &zero)?;
        let wide = self.widened(&format!("{name}.wide_input"), input);
        let quantised = self.graph.node(format!("{name}.input_fp8"), "QuantizeLinear", &[&wide, &scale, &zero], &[]);

        let values = self.graph.constant(format!("{name}.weight_fp8"), &matrix.values.f_tr()?)?; // [in, out]
        let scales = operand_scales(matrix, self.element);
        let [input, weight] =
            [("input", &quantised, scales[0]), ("weight", &values, scales[1])].map(|(operand, quantised, scale)| {
                let scale = self.scalar(&format!("{name}.{operand}_dequantising_scale"), scale)?;
                Ok::<_, TchError>(self.graph.node(
                    format!("{name}.{operand}"),
                    "DequantizeLinear",
                    &[quantised, &scale],
                    &[],
                ))
            });
        let (input, weight) = (input?, weight?);
        let product = self.graph.node(format!("{name}.product"), "MatMul", &[&input, &weight], &[]);
        self.shifted(name, &product, bias)
    }

    /// input·matrix + bias, for a matrix [in, out].
    fn affine(&mut self, name: &str, input: &Value, matrix: &Tensor, bias: Option<&Tensor>) -> Result<Value, TchError> {
        let weight = self.constant(&format!("{name}.weight"), matrix)?;
        let product = self.graph.node(format!("{name}.product"), "MatMul", &[input, &weight], &[]);
        self.shifted(name, &product, bias)
    }

    fn shifted(&mut self, name: &str, product: &Value, bias: Option<&Tensor>) -> Result<Value, TchError> {
        let Some(bias) = bias else {
            return Ok(product.clone());
        };
        let bias = self.constant(&format!("{name}.bias"), bias)?;
        Ok(self.graph.node(name, "Add", &[product, &bias], &[]))
    }

    /// Adds a constant in the graph's type.
    fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<Value, TchError> {
        self.graph.constant(name, &tensor.f_to_kind(self.element.kind())?)
    }

    fn scalar(&mut self, name: &str, value: f64) -> Result<Value, TchError> {
        self.constant(name, &Tensor::f_full([], value, (Kind::Double, Device::Cpu))?)
    }

    /// Casts a single-precision value to the graph's type.
    fn cast(&mut self, value: &str) -> Value {
        if self.element == Element::F32 {
            return value.to_owned();
        }
        self.cast_to(format!("{value}.cast"), &value.to_owned(), self.element.kind())
    }

    /// Casts a value of the graph's type to single precision.
    fn widened(&mut self, name: &str, value: &Value) -> Value {
        if self.element == Element::F32 {
            return value.clone();
        }
        self.cast_to(name.to_owned(), value, Kind::Float)
    }

    fn cast_to(&mut self, name: Value, value: &Value, kind: Kind) -> Value {
        let to = super::file::data_type(kind).map_or(0, |data_type| data_type as i64);
        self.graph.node(name, "Cast", &[value], &[("to", Attribute::Int(to))])
    }
}
