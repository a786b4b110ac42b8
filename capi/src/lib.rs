//! The C interface of flowreg. `include/flowreg.h` is generated from this crate. Its first comment has
//! the rules of ownership, errors and threads; the source of that comment is `cbindgen.toml`.
//!
//! Only `memory` converts C pointers to references; `failure` converts errors and panics to codes and
//! the calling thread's message.
#![deny(
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks,
    missing_docs
)]
// Names follow C. The safety contract of all functions is in the header's first comment.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod failure;
mod fits;
mod memory;
mod model;
mod progress;

#[cfg(not(panic = "unwind"))]
compile_error!("FLOWREG_CODE_INTERNAL requires that panics unwind: build with panic = \"unwind\"");

use std::ffi::{CStr, c_char};

pub use failure::{
    flowreg_clear_error, flowreg_code, flowreg_last_error_code, flowreg_last_error_message,
};
pub use fits::{
    flowreg_engine, flowreg_fit_path, flowreg_fit_sgd, flowreg_init, flowreg_path_options,
    flowreg_path_options_init, flowreg_path_result, flowreg_penalty, flowreg_samples,
    flowreg_sgd_options, flowreg_sgd_options_init, flowreg_sgd_result, flowreg_solver,
    flowreg_status,
};
pub use model::{
    flowreg_model, flowreg_model_bias, flowreg_model_free, flowreg_model_load,
    flowreg_model_logits, flowreg_model_new, flowreg_model_predict, flowreg_model_probabilities,
    flowreg_model_save, flowreg_model_shape, flowreg_model_weight,
};
pub use progress::{flowreg_callback, flowreg_event, flowreg_progress};

static VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// The library's version, such as "0.1.0". The text is always valid.
#[unsafe(no_mangle)]
pub extern "C" fn flowreg_version() -> *const c_char {
    VERSION.as_ptr()
}
