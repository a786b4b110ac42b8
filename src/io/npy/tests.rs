use super::*;

#[test]
fn f16_conversion_agrees_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (own, other) = (f16_to_f64(bits), half::f16::from_bits(bits).to_f64());
        assert!(
            own.to_bits() == other.to_bits() || own.is_nan() && other.is_nan(),
            "{bits}"
        );
    }
}

use proptest::prelude::*;

fn parse_text(text: &str, data: u64) -> Result<Header, NpyError> {
    let mut bytes = MAGIC.to_vec();
    let len = (10 + text.len() + 1).next_multiple_of(64) - 10;
    bytes.extend([1, 0]);
    bytes.extend((len as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(10 + len, b' ');
    Header::parse(&bytes, bytes.len() as u64 + data)
}

#[test]
fn numpys_header_is_read() {
    // numpy.save of numpy.zeros((2, 3), 'f4'), numpy 2.
    let header = parse_text(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        24,
    )
    .unwrap();
    assert_eq!((header.dtype, header.shape), (Dtype::F32, vec![2, 3]));
}

#[test]
fn each_kind_of_damage_has_an_error() {
    use NpyError as E;
    let good = Header::encode(Dtype::F32, &[2, 3]);
    let len = good.len() as u64 + 24;
    assert_eq!(Header::parse(b"PK\x03\x04", 4), Err(E::Magic));
    assert!(matches!(
        Header::parse(&good[..8], len),
        Err(E::Truncated { .. })
    ));
    assert!(matches!(
        Header::parse(&good[..40], len),
        Err(E::Truncated { .. })
    ));
    let mut version = good.clone();
    version[6] = 2;
    assert!(matches!(Header::parse(&version, len), Err(E::TooLong(_))));
    version[6] = 4;
    assert_eq!(Header::parse(&version, len), Err(E::Version(4, 0)));
    assert!(matches!(
        Header::parse(&good, len - 1),
        Err(E::Length { .. })
    ));
    assert!(matches!(
        Header::parse(&good, len + 1),
        Err(E::Length { .. })
    ));
    for (descr, hint) in [
        ("'<c8'", "x.real"),
        ("'|O'", "astype"),
        (
            "[('a', '<f4'), ('b', '<i4', (2, 3))]",
            "structured_to_unstructured",
        ),
        ("'<M8[ns]'", "astype('i8')"),
        ("'<f16'", "astype('f8')"),
        ("'|V2'", "astype('f4')"),
        ("'<U0'", "astype"),
        ("'|S99999999999999999999'", "astype"),
        ("'<f4 '", "float"),
        ("3", "number"),
    ] {
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}");
        let error = parse_text(&text, 4).unwrap_err();
        assert!(matches!(error, E::Descr { .. }), "{descr}: {error}");
        assert!(error.to_string().contains(hint), "{descr}: {error}");
    }
    for shape in [
        "(3)",
        "(-1,)",
        "(+1,)",
        "(1,,2)",
        "(,)",
        "[1]",
        "(1.0,)",
        "(1 2)",
        "(True,)",
        "('1',)",
        "((1,),)",
        "99999999999999999999999,",
        "(99999999999999999999999,)",
        "(1,",
    ] {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        assert!(
            matches!(parse_text(&text, 4), Err(E::Shape(_) | E::Dictionary(_))),
            "{shape}"
        );
    }
    for text in [
        "",
        "{}",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} + 1",
    ] {
        assert!(parse_text(text, 4).is_err(), "{text}");
    }
    // A product beyond 2^64 must not wrap round to the real length.
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
    assert!(matches!(parse_text(text, 0), Err(E::Length { .. })));
}

/// numpy.dtype of NumPy 2 on a 64-bit Unix accepts and rejects the same.
#[test]
fn type_strings_are_accepted_as_by_numpy() {
    use Dtype::*;
    let of = |descr: &str, dtype: Dtype| {
        let data = 12 * dtype.size() as u64;
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (12,)}}");
        parse_text(&text, data).map(|header| (header.dtype, header.big_endian))
    };
    for (dtype, letters, names) in [
        (F64, &["f8", "d"][..], &["float64", "double", "float"][..]),
        (F32, &["f4", "f"], &["float32", "single"]),
        (F16, &["f2", "e"], &["float16", "half"]),
        (Bool, &["b1", "?"], &["bool", "bool_"]),
        (U8, &["u1", "B"], &["uint8", "ubyte"]),
        (U16, &["u2", "H"], &["uint16", "ushort"]),
        (U32, &["u4", "I"], &["uint32", "uintc"]),
        (
            U64,
            &["u8", "L", "Q", "P", "N"],
            &["uint64", "uint", "uintp", "ulong", "ulonglong"],
        ),
        (I8, &["i1", "b"], &["int8", "byte"]),
        (I16, &["i2", "h"], &["int16", "short"]),
        (I32, &["i4", "i"], &["int32", "intc"]),
        (
            I64,
            &["i8", "l", "q", "p", "n"],
            &["int64", "int", "int_", "intp", "long", "longlong"],
        ),
        (Unicode(3), &["U3", "U03"], &[]),
        (Bytes(3), &["S3", "a3"], &[]),
        (Bytes(1), &["c"], &[]),
    ] {
        for letter in letters {
            for order in ["", "<", "=", "|"] {
                let descr = format!("{order}{letter}");
                assert_eq!(of(&descr, dtype), Ok((dtype, false)), "{descr}");
            }
            let big = dtype.size() > 1 && !matches!(dtype, Bytes(_));
            assert_eq!(of(&format!(">{letter}"), dtype), Ok((dtype, big)));
        }
        for name in names {
            assert_eq!(of(name, dtype), Ok((dtype, false)), "{name}");
            assert!(of(&format!("<{name}"), dtype).is_err(), "<{name}");
        }
    }
    for descr in [
        "float4", "d8", "f1", "?1", "F", "float_", "f4 ", "U", "2f4", "f4,f4",
    ] {
        assert!(of(descr, F32).is_err(), "{descr}");
    }
}

#[test]
fn headers_of_other_writers_and_versions_are_read() {
    let of = |text: &str, data| parse_text(text, data).unwrap();
    // Another order of keys, double quotes, no trailing comma; Python 2's long integers.
    let header = of(
        r#"{"shape":(2L, 3L),"fortran_order":True,"descr":">i2"}"#,
        12,
    );
    assert_eq!(
        (
            header.dtype,
            header.big_endian,
            header.fortran_order,
            &*header.shape
        ),
        (Dtype::I16, true, true, &[2, 3][..])
    );
    let header = of(
        "{'descr': '|b1', 'fortran_order': False, 'shape': ( 4 , ) , }",
        4,
    );
    assert_eq!((header.dtype, &*header.shape), (Dtype::Bool, &[4][..]));
    let header = of(
        "{'descr': '>U3', 'fortran_order': False, 'shape': (2, 1, 1), }",
        24,
    );
    assert_eq!((header.dtype, header.big_endian), (Dtype::Unicode(3), true));
    let header = of("{'descr': '|S3', 'fortran_order': False, 'shape': (), }", 3);
    assert_eq!((header.dtype, header.shape.len()), (Dtype::Bytes(3), 0));
    // Versions 2 and 3 have a length of four bytes; any alignment is accepted.
    for version in [2, 3] {
        let text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n";
        let mut bytes = [&MAGIC[..], &[version, 0]].concat();
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text);
        let header = Header::parse(&bytes, bytes.len() as u64 + 4).unwrap();
        assert_eq!(header.data_offset, bytes.len());
        for cut in 0..bytes.len() {
            assert!(Header::parse(&bytes[..cut], 100).is_err());
        }
    }
    // Deep nesting is an error, not a stack overflow.
    let deep = format!("{{'shape': {}", "(".repeat(10_000));
    assert!(parse_text(&deep, 4).is_err());
}

proptest! {
    #[test]
    fn round_trip_preserves_the_shape(rows in 0usize..1 << 40, cols in 0usize..1 << 20, two in any::<bool>()) {
        let shape = if two { vec![rows, cols] } else { vec![rows] };
        let bytes = Header::encode(Dtype::I64, &shape);
        prop_assert_eq!(bytes.len() % 64, 0);
        let data = shape.iter().map(|&d| d as u64).product::<u64>() * 8;
        let header = Header::parse(&bytes, bytes.len() as u64 + data).unwrap();
        prop_assert_eq!(header.shape, shape);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
        let _ = Header::parse(&bytes, len);
        let mut framed = Header::encode(Dtype::F32, &[1, 1]);
        let n = bytes.len().min(framed.len() - 10);
        framed[10..10 + n].copy_from_slice(&bytes[..n]);
        let _ = Header::parse(&framed, len);
    }
}
