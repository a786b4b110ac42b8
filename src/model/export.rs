//! Export of a model to ONNX and `.npy`.

use serde_json::json;

use crate::data::dataset::BYTES;
use crate::error::{Error, Result};
use crate::io::npy;
use crate::io::publish::Staging;
use crate::loss::Loss;
use crate::model::Model;

/// File name of the ONNX model, which includes the conversion of pixels or numbers to features.
pub const ONNX: &str = "model.onnx";
/// File name of W (c x d), divided by the model's temperature if it has one.
pub const WEIGHT: &str = "weight.npy";
/// File name of b (c), divided by the model's temperature if it has one.
pub const BIAS: &str = "bias.npy";

/// Largest length of a protobuf message.
const MAX_ONNX: usize = i32::MAX as usize;
/// Versions of the ONNX format and of its operators. Runtimes support them since 2021.
const IR_VERSION: u64 = 8;
const OPSET: u64 = 13;
/// Values of `TensorProto.DataType`.
const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const DOUBLE: u64 = 11;

/// File name of the shift of the features (f64, d), if the model has one.
pub const SHIFT: &str = "shift.npy";

/// Write the files of the export to `staging` and return their names. All give the probabilities of
/// [`Model::probabilities`]: W and b are divided by the temperature, if there is one. The `.npy`
/// files expect rows as a dataset stores them (divided by 255, shift subtracted); the ONNX model
/// converts its input itself.
///
/// # Errors
/// Those of [`to_onnx`]; [`Error::Io`].
pub fn write(staging: &Staging, model: &Model) -> Result<Vec<&'static str>> {
    let model = &*model.calibrated()?;
    let weight = model.weight();
    let shape = [weight.rows(), weight.cols()];
    staging.write(ONNX, &to_onnx(model)?)?;
    staging.write(WEIGHT, &npy::f32_file(&shape, weight.as_slice()))?;
    staging.write(BIAS, &npy::f32_file(&[weight.rows()], model.bias()))?;
    let mut files = vec![ONNX, WEIGHT, BIAS];
    let numbers = model.about().numbers.as_ref();
    if let Some(shift) = numbers.and_then(|numbers| numbers.shift.as_deref()) {
        let mut file = npy::Header::encode(npy::Dtype::F64, &[shift.len()]);
        file.extend_from_slice(bytemuck::cast_slice(shift));
        staging.write(SHIFT, &file)?;
        files.push(SHIFT);
    }
    Ok(files)
}

/// The bytes of an ONNX model, which converts its input to features as the training rows were made.
///
/// | input | type and shape | conversion |
/// | --- | --- | --- |
/// | `pixels`, of photographs | u8, N x 3 x S x S | divided by 255 |
/// | `x`, of byte features | u8, N x d | divided by 255 |
/// | `x`, of shifted features | f64, N x d | shift subtracted, rounded to f32 |
/// | `x`, of others | f32, N x d | none |
///
/// Its outputs are `logits` (N x c, divided by the model's temperature if it has one) and
/// `probabilities` (N x classes), those of [`Model::probabilities`]. Its metadata entries are JSON:
/// `class_names`, a list; of photographs `transform`, how they become `pixels`: the manifest's without
/// `scale`, which is in the graph; of tables `columns`, the names of the features, a list.
///
/// # Errors
/// [`Error::Shape`] for a model of 2 GiB or more, which the format cannot hold; those of
/// [`Model::calibrated`].
pub fn to_onnx(model: &Model) -> Result<Vec<u8>> {
    let model = &*model.calibrated()?;
    let weight = model.weight();
    let length = size_of_val(weight.as_slice());
    if length > MAX_ONNX {
        return Err(too_long(length));
    }
    let (outputs, dimension) = (weight.rows() as u64, weight.cols() as u64);
    let mut graph = Message::default();
    let numbers = model.about().numbers.as_ref();
    let bytes = numbers.is_some_and(|numbers| numbers.scale.as_deref() == Some(BYTES));
    let shift = numbers.and_then(|numbers| numbers.shift.as_deref());
    // The type of the values before the product.
    let value_type = if shift.is_some() { DOUBLE } else { FLOAT };
    let mut step = |operator, inputs: &[&str], output: &'static str, attributes: &[(&str, u64)]| {
        graph.message(1, &node(operator, inputs, output, attributes));
        output
    };
    let (input, features) = match &model.about().transform {
        Some(transform) => {
            step("Cast", &["pixels"], "bytes", &[("to", FLOAT)]);
            step("Div", &["bytes", "largest"], "scaled", &[]);
            step("Flatten", &["scaled"], "x", &[("axis", 1)]);
            let size = transform.size as u64;
            (value("pixels", UINT8, &[3, size, size]), "x")
        }
        None => {
            let mut features = "x";
            if bytes {
                step("Cast", &["x"], "bytes", &[("to", value_type)]);
                features = step("Div", &["bytes", "largest"], "scaled", &[]);
            }
            if shift.is_some() {
                step("Sub", &[features, "shift"], "shifted", &[]);
                features = step("Cast", &["shifted"], "features", &[("to", FLOAT)]);
            }
            let of = if bytes { UINT8 } else { value_type };
            (value("x", of, &[dimension]), features)
        }
    };
    step(
        "Gemm",
        &[features, "weight", "bias"],
        "logits",
        &[("transB", 1)],
    );
    match model.loss() {
        Loss::Softmax => graph.message(
            1,
            &node("Softmax", &["logits"], "probabilities", &[("axis", 1)]),
        ),
        Loss::Logistic => {
            graph.message(1, &node("Neg", &["logits"], "against", &[]));
            graph.message(
                1,
                &node("Concat", &["against", "logits"], "both", &[("axis", 1)]),
            );
            graph.message(1, &node("Sigmoid", &["both"], "probabilities", &[]));
        }
    }
    graph.text(2, "flowreg");
    let dims = [outputs, dimension];
    graph.message(
        5,
        &tensor(
            "weight",
            FLOAT,
            &dims,
            bytemuck::cast_slice(weight.as_slice()),
        ),
    );
    graph.message(
        5,
        &tensor(
            "bias",
            FLOAT,
            &[outputs],
            bytemuck::cast_slice(model.bias()),
        ),
    );
    if model.about().transform.is_some() || bytes {
        let largest = if shift.is_some() {
            255f64.to_le_bytes().to_vec()
        } else {
            255f32.to_le_bytes().to_vec()
        };
        graph.message(5, &tensor("largest", value_type, &[], &largest));
    }
    if let Some(shift) = shift {
        let dims = [shift.len() as u64];
        graph.message(
            5,
            &tensor("shift", DOUBLE, &dims, bytemuck::cast_slice(shift)),
        );
    }
    graph.message(11, &input);
    graph.message(12, &value("logits", FLOAT, &[outputs]));
    graph.message(
        12,
        &value("probabilities", FLOAT, &[model.classes() as u64]),
    );

    let mut opset = Message::default();
    opset.number(2, OPSET);
    let mut onnx = Message::default();
    onnx.number(1, IR_VERSION);
    onnx.text(2, "flowreg");
    onnx.text(3, env!("CARGO_PKG_VERSION"));
    onnx.message(7, &graph);
    onnx.message(8, &opset);
    for (key, json) in metadata(model) {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.text(2, &json.to_string());
        onnx.message(14, &entry);
    }
    if onnx.0.len() > MAX_ONNX {
        return Err(too_long(onnx.0.len()));
    }
    Ok(onnx.0)
}

fn too_long(bytes: usize) -> Error {
    let expected = "less than 2 GiB, the most that ONNX holds";
    Error::shape("weight", format!("a model of {bytes} bytes"), expected)
}

/// The metadata entries of [`to_onnx`].
fn metadata(model: &Model) -> Vec<(&'static str, serde_json::Value)> {
    let about = model.about();
    let columns = (about.numbers.as_ref()).and_then(|numbers| numbers.columns.as_ref());
    let mut entries = vec![("class_names", json!(about.class_names))];
    if let Some(transform) = &about.transform {
        let mut transform = json!(transform);
        // The graph divides the bytes.
        (transform.as_object_mut()).map(|fields| fields.remove("scale"));
        entries.push(("transform", transform));
    }
    entries.extend(columns.map(|columns| ("columns", json!(columns))));
    entries
}

/// A `NodeProto` with integer attributes.
fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Message {
    let mut node = Message::default();
    for input in inputs {
        node.text(1, input);
    }
    node.text(2, output);
    node.text(4, operator);
    for &(name, number) in attributes {
        let mut attribute = Message::default();
        attribute.text(1, name);
        attribute.number(3, number);
        attribute.number(20, 2); // `AttributeProto.Type.INT`.
        node.message(5, &attribute);
    }
    node
}

/// A `ValueInfoProto` of shape N x `dims`.
fn value(name: &str, of: u64, dims: &[u64]) -> Message {
    let mut shape = Message::default();
    let mut any = Message::default();
    any.text(2, "N");
    shape.message(1, &any);
    for &dim in dims {
        let mut fixed = Message::default();
        fixed.number(1, dim);
        shape.message(1, &fixed);
    }
    let mut tensor = Message::default();
    tensor.number(1, of);
    tensor.message(2, &shape);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut value = Message::default();
    value.text(1, name);
    value.message(2, &kind);
    value
}

/// A `TensorProto` of type `of` from the little-endian bytes of its values.
fn tensor(name: &str, of: u64, dims: &[u64], values: &[u8]) -> Message {
    let mut tensor = Message::default();
    for &dim in dims {
        tensor.number(1, dim);
    }
    tensor.number(2, of);
    tensor.text(8, name);
    tensor.bytes(9, values);
    tensor
}

/// A protobuf message: its encoded fields, one after another.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::NumberFormat;
    use crate::model::About;

    #[test]
    fn metadata_of_tables_name_the_columns() {
        let mut model = Model::new(vec![0.5; 2], vec![0.0]).unwrap();
        assert_eq!(metadata(&model), [("class_names", json!([]))]);
        model.set_about(About {
            class_names: vec!["rose".to_string(), "tulip".to_string()],
            numbers: Some(NumberFormat {
                columns: Some(vec!["petal length".to_string(), "petal width".to_string()]),
                ..NumberFormat::default()
            }),
            ..About::default()
        });
        let expected = [
            ("class_names", json!(["rose", "tulip"])),
            ("columns", json!(["petal length", "petal width"])),
        ];
        assert_eq!(metadata(&model), expected);
    }

    /// The examples of protobuf's documentation of its encoding.
    #[test]
    fn fields_are_encoded_as_protobuf_documents() {
        let mut inner = Message::default();
        inner.number(1, 150);
        assert_eq!(inner.0, [0x08, 0x96, 0x01]);
        let mut outer = Message::default();
        outer.text(2, "testing");
        outer.message(3, &inner);
        assert_eq!(outer.0, b"\x12\x07testing\x1a\x03\x08\x96\x01");
    }
}
