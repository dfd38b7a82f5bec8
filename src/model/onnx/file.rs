//! Writes ONNX files. Up to protobuf's limit the weights are inside; above it they lie in a second file beside the
//! first.

use super::graph::{Attribute, Graph, Node, bytes};
use super::{Direction, IoTensor};
use crate::model::onnx::ExportError;
use onnx_rs::ast;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Largest size of all constants that still go into the file: protobuf cannot hold 2 GiB, and the nodes need some room.
pub const INLINE_LIMIT_BYTES: u64 = (1 << 31) - (1 << 24);

/// Pairs of an opset and the IR version that came with it. Readers refuse an IR version that is too new for them.
const IR_VERSIONS: &[(i64, i64)] = &[(18, 8), (19, 9), (21, 10)];

/// External data begins at multiples of this, so that readers can map it.
const PAGE: u64 = 4096;

/// Path of the external data of the file `onnx`, for weights that do not fit into it.
pub fn data_path(onnx: &Path) -> PathBuf {
    let mut name = onnx.as_os_str().to_owned();
    name.push(".data");
    PathBuf::from(name)
}

/// A constant's values, or their location in the external data.
enum Stored {
    Inside(Vec<u8>),
    /// File name, offset, length.
    Beside([String; 3]),
}

/// Writes the graph to `path`, with constants beside it if they exceed `inline_limit_bytes`; `notes` become the file's
/// metadata. Returns the path of the external data, if any.
///
/// # Errors
/// A file that cannot be written, or a constant of a type that ONNX does not have.
pub fn write(
    graph: &Graph,
    path: &Path,
    notes: &[(&str, String)],
    inline_limit_bytes: u64,
) -> Result<Option<PathBuf>, ExportError> {
    let external = (graph.constant_bytes() > inline_limit_bytes).then(|| data_path(path));
    let stored = match &external {
        Some(data) => write_beside(graph, data)?,
        None => {
            graph.constants.iter().map(|(_, tensor)| values(tensor).map(Stored::Inside)).collect::<Result<_, _>>()?
        }
    };
    let initializer = graph.constants.iter().zip(&stored).map(|(constant, stored)| initialiser(constant, stored));
    let initializer = initializer.collect::<Result<_, _>>()?;
    let model = onnx_rs::encode(&model(graph, initializer, notes));
    std::fs::write(path, model).map_err(|error| unwritable(path, &error))?;
    Ok(external)
}

fn model<'a>(graph: &'a Graph, initializer: Vec<ast::TensorProto<'a>>, notes: &'a [(&str, String)]) -> ast::Model<'a> {
    let declared = |direction| {
        let tensors = graph.tensors.iter().filter(move |tensor| tensor.direction == direction);
        tensors.map(value_info).collect()
    };
    ast::Model {
        ir_version: IR_VERSIONS
            .iter()
            .rev()
            .find(|(opset, _)| *opset <= graph.opset)
            .map_or(8, |(_, version)| *version),
        opset_import: vec![ast::OperatorSetId { domain: "", version: graph.opset }],
        producer_name: env!("CARGO_PKG_NAME"),
        producer_version: env!("CARGO_PKG_VERSION"),
        graph: Some(ast::Graph {
            name: "xvla_policy",
            node: graph.nodes.iter().map(node).collect(),
            initializer,
            input: declared(Direction::Input),
            output: declared(Direction::Output),
            ..ast::Graph::default()
        }),
        metadata_props: notes.iter().map(|(key, value)| ast::StringStringEntry { key, value }).collect(),
        ..ast::Model::default()
    }
}

fn node(node: &Node) -> ast::Node<'_> {
    ast::Node {
        name: &node.name,
        op_type: node.operator.into(),
        input: node.inputs.iter().map(String::as_str).collect(),
        output: node.outputs.iter().map(String::as_str).collect(),
        attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        ..ast::Node::default()
    }
}

fn attribute<'a>(name: &'a str, value: &'a Attribute) -> ast::Attribute<'a> {
    let attribute = ast::Attribute { name, ..ast::Attribute::default() };
    match value {
        Attribute::Int(value) => ast::Attribute { r#type: ast::AttributeType::Int, i: *value, ..attribute },
        Attribute::Float(value) => ast::Attribute { r#type: ast::AttributeType::Float, f: *value, ..attribute },
        Attribute::Ints(values) => {
            ast::Attribute { r#type: ast::AttributeType::Ints, ints: values.clone(), ..attribute }
        }
        Attribute::Text(value) => {
            ast::Attribute { r#type: ast::AttributeType::String, s: value.as_bytes(), ..attribute }
        }
    }
}

/// The declaration of an input or output.
fn value_info(tensor: &IoTensor) -> ast::ValueInfo<'_> {
    let dim = |&extent: &i64| ast::TensorShapeDimension {
        value: ast::Dimension::Value(extent),
        ..ast::TensorShapeDimension::default()
    };
    let shape = ast::TensorShape { dim: tensor.shape.iter().map(dim).collect() };
    let elem_type = data_type(tensor.dtype.kind()).unwrap_or_default();
    let value = ast::TypeValue::Tensor(ast::TensorTypeProto { elem_type, shape: Some(shape) });
    let r#type = Some(ast::TypeProto { value: Some(value), ..ast::TypeProto::default() });
    ast::ValueInfo { name: &tensor.name, r#type, ..ast::ValueInfo::default() }
}

fn initialiser<'a>(
    (name, tensor): &'a (String, Tensor),
    stored: &'a Stored,
) -> Result<ast::TensorProto<'a>, ExportError> {
    let Some(data_type) = data_type(tensor.kind()) else {
        return Err(ExportError::Unsupported { reason: format!("constant `{name}` of type {:?}", tensor.kind()) });
    };
    Ok(match stored {
        Stored::Inside(values) => ast::TensorProto::from_raw(name, tensor.size(), data_type, values),
        Stored::Beside(place) => {
            let place = ["location", "offset", "length"].into_iter().zip(place);
            ast::TensorProto::from_raw(name, tensor.size(), data_type, &[])
                .with_data_location(ast::DataLocation::External)
                .with_external_data(place.map(|(key, value)| ast::StringStringEntry { key, value }).collect())
        }
    })
}

/// ONNX's name for an element type, if it has one.
pub(super) fn data_type(kind: Kind) -> Option<ast::DataType> {
    Some(match kind {
        Kind::Float => ast::DataType::Float,
        Kind::Half => ast::DataType::Float16,
        Kind::BFloat16 => ast::DataType::Bfloat16,
        Kind::Float8e4m3fn => ast::DataType::Float8e4m3fn,
        Kind::Int64 => ast::DataType::Int64,
        _ => return None,
    })
}

/// Writes the values of all constants but shapes to `path`, and returns where each constant is stored.
fn write_beside(graph: &Graph, path: &Path) -> Result<Vec<Stored>, ExportError> {
    let unwritable_data = |error: std::io::Error| unwritable(path, &error);
    let location = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut file = BufWriter::new(File::create(path).map_err(unwritable_data)?);
    let mut end = 0u64;
    let mut stored = Vec::with_capacity(graph.constants.len());
    for (_, tensor) in &graph.constants {
        // Readers need the values of shapes to understand the graph, so these stay inside.
        if tensor.kind() == Kind::Int64 {
            stored.push(Stored::Inside(values(tensor)?));
            continue;
        }
        let start = end.next_multiple_of(PAGE);
        file.write_all(&vec![0; (start - end) as usize]).map_err(unwritable_data)?;
        file.write_all(&values(tensor)?).map_err(unwritable_data)?;
        end = start + bytes(tensor);
        stored.push(Stored::Beside([location.clone(), start.to_string(), bytes(tensor).to_string()]));
    }
    file.flush().map_err(unwritable_data)?;
    Ok(stored)
}

fn unwritable(path: &Path, error: &std::io::Error) -> ExportError {
    ExportError::Write { path: path.to_owned(), reason: error.to_string() }
}

/// The values of a tensor on the host, row-major, in little-endian order like every machine that libtorch runs on.
fn values(tensor: &Tensor) -> Result<Vec<u8>, ExportError> {
    let mut values = vec![0; bytes(tensor) as usize];
    tensor.f_copy_data_u8(&mut values, tensor.numel()).map_err(ExportError::from)?;
    Ok(values)
}
