//! Files that other programs read differently are refused with advice. `tests/golden` has them as
//! SciPy and Pillow write them.

use std::path::{Path, PathBuf};

use flowreg::data::pictures::{DecodeOptions, decode_rgb};
use flowreg::data::rows::Features;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

#[test]
fn sparse_matrices_of_scipy_are_refused() {
    for name in ["sparse-dia.npz", "sparse-csr.npz"] {
        let Err(error) = Features::open(&golden(name)) else {
            panic!("{name} was read");
        };
        let error = error.to_string();
        assert!(
            error.contains("sparse") && error.contains("toarray"),
            "{error}"
        );
    }
}

/// libtiff ignores a predictor for a compression that has none.
#[test]
fn a_tiff_predictor_without_its_compression_is_refused() {
    let decode = |name: &str| {
        let bytes = std::fs::read(golden(name)).unwrap();
        decode_rgb(&bytes, &DecodeOptions::default())
    };
    let error = decode("predictor.tif").unwrap_err();
    assert!(error.contains("predictor 2"), "{error}");
    assert_eq!(decode("predictor-lzw.tif").unwrap().width, 5);
}
