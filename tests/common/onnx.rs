//! A tiny reader of the operators that flowreg's ONNX models have, in f64, independent of what
//! writes them.

use std::collections::HashMap;

/// A field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, by number.
fn fields(mut raw: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(raw: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = raw[0];
            *raw = &raw[1..];
            value |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !raw.is_empty() {
        let key = varint(&mut raw);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut raw)),
            2 => {
                let length = varint(&mut raw) as usize;
                let (bytes, rest) = raw.split_at(length);
                raw = rest;
                Field::Bytes(bytes)
            }
            other => panic!("wire type {other}"),
        };
        all.push((key >> 3, field));
    }
    all
}

fn texts(fields: &[(u64, Field)], number: u64) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (fields.iter())
        .filter_map(|(found, field)| match field {
            Field::Bytes(bytes) if *found == number => Some(text(bytes)),
            _ => None,
        })
        .collect()
}

/// The metadata entries of a model, whose values are JSON.
pub fn metadata(model: &[u8]) -> Vec<(String, serde_json::Value)> {
    let entries = fields(model).into_iter().filter_map(|field| match field {
        (14, Field::Bytes(entry)) => Some(fields(entry)),
        _ => None,
    });
    let text = |entry: &[(u64, Field)], number| texts(entry, number).concat();
    let parsed = |json: String| serde_json::from_str(&json).unwrap();
    entries
        .map(|entry| (text(&entry, 1), parsed(text(&entry, 2))))
        .collect()
}

/// The `probabilities` of a model, row-major, for the values of its input. Casts to f32 round.
pub fn probabilities(model: &[u8], input: &[f64]) -> Vec<f64> {
    let model = fields(model);
    let bytes = |fields: &[(u64, Field)], number| -> Vec<Vec<u8>> {
        (fields.iter())
            .filter_map(|(found, field)| match field {
                Field::Bytes(bytes) if *found == number => Some(bytes.to_vec()),
                _ => None,
            })
            .collect()
    };
    let graph = &bytes(&model, 7)[0];
    let graph = fields(graph);
    let mut have: HashMap<String, Vec<f64>> = HashMap::new();
    let [given] = &bytes(&graph, 11)[..] else {
        panic!("one input");
    };
    have.insert(texts(&fields(given), 1)[0].clone(), input.to_vec());
    for tensor in bytes(&graph, 5) {
        let of = fields(&tensor);
        let number = |wanted| {
            of.iter().find_map(|(found, field)| match field {
                Field::Number(number) if *found == wanted => Some(*number),
                _ => None,
            })
        };
        let raw = &bytes(&of, 9)[0];
        let values = match number(2) {
            Some(1) => raw
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
            Some(11) => raw
                .chunks(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            other => panic!("type {other:?}"),
        };
        have.insert(texts(&of, 8)[0].clone(), values);
    }
    let outputs = have["bias"].len();
    for node in bytes(&graph, 1) {
        let of = fields(&node);
        let inputs: Vec<Vec<f64>> = texts(&of, 1)
            .iter()
            .map(|name| have[name].clone())
            .collect();
        let attribute = bytes(&of, 5).first().map(|attribute| {
            let number = fields(attribute)
                .into_iter()
                .find_map(|(found, field)| match field {
                    Field::Number(number) if found == 3 => Some(number),
                    _ => None,
                });
            number.unwrap()
        });
        let a = &inputs[0];
        let along = |each: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            (a.iter().enumerate())
                .map(|(i, &x)| each(x, inputs[1][i % inputs[1].len()]))
                .collect()
        };
        let result: Vec<f64> = match texts(&of, 4)[0].as_str() {
            "Cast" if attribute == Some(1) => a.iter().map(|&x| f64::from(x as f32)).collect(),
            "Cast" | "Flatten" => a.clone(),
            "Sub" => along(&|x, y| x - y),
            "Div" => along(&|x, y| x / y),
            "Neg" => a.iter().map(|x| -x).collect(),
            "Sigmoid" => a.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            "Concat" => (a.iter().zip(&inputs[1]))
                .flat_map(|(&x, &y)| [x, y])
                .collect(),
            "Gemm" => {
                let features = inputs[1].len() / outputs;
                (a.chunks(features))
                    .flat_map(|row| {
                        let dot = |w: &[f64]| row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                        let weights = inputs[1].chunks(features).zip(&inputs[2]);
                        weights.map(move |(w, b)| dot(w) + b).collect::<Vec<_>>()
                    })
                    .collect()
            }
            "Softmax" => (a.chunks(outputs))
                .flat_map(|row| {
                    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = row.iter().map(|z| (z - top).exp()).sum();
                    row.iter()
                        .map(move |z| (z - top).exp() / sum)
                        .collect::<Vec<_>>()
                })
                .collect(),
            other => panic!("operator {other}"),
        };
        have.insert(texts(&of, 2)[0].clone(), result);
    }
    have.remove("probabilities").unwrap()
}
