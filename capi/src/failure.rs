//! Conversion of errors and panics to a code and a message per thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use flowreg::Error;

/// Result of a function.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_code {
    /// Success.
    Ok = 0,
    /// A pointer is NULL or not aligned, arrays overlap, a size overflows, or struct_size is wrong.
    Argument = 1,
    /// An option is out of its range.
    Options = 2,
    /// The shapes of arrays do not match, or a value is invalid, such as NaN.
    Shape = 3,
    /// The memory is too small for the request.
    Memory = 4,
    /// Numbers left the range of f32: the fit diverged, or logits are not finite.
    Numbers = 5,
    /// A file operation failed.
    Io = 6,
    /// A file is not valid in its format, or a model cannot be written in it.
    Format = 7,
    /// The callback stopped the fit.
    Stopped = 8,
    /// Another error; the message says which.
    Other = 9,
    /// A fault of flowreg. The message says where; please report it.
    Internal = 10,
}

/// The error of a call: its code and message.
#[derive(Debug)]
pub(crate) struct Failure {
    code: flowreg_code,
    message: String,
}

impl Failure {
    pub(crate) fn argument(what: &str, found: impl ToString, expected: impl ToString) -> Failure {
        let (found, expected) = (found.to_string(), expected.to_string());
        Failure {
            code: flowreg_code::Argument,
            message: format!("{what}: found {found}, expected {expected}"),
        }
    }

    pub(crate) fn options(what: &str, found: impl ToString, expected: &str) -> Failure {
        Failure {
            code: flowreg_code::Options,
            ..Failure::argument(what, found, expected)
        }
    }

    pub(crate) fn shape(what: &str, found: impl ToString, expected: impl ToString) -> Failure {
        Failure {
            code: flowreg_code::Shape,
            ..Failure::argument(what, found, expected)
        }
    }

    fn of_panic(payload: &(dyn Any + Send)) -> Failure {
        let text = (payload.downcast_ref::<&str>().copied())
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        Failure {
            code: flowreg_code::Internal,
            message: format!("flowreg: internal fault: {text}; please report it"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            Error::Options { .. } => flowreg_code::Options,
            Error::Shape { .. } => flowreg_code::Shape,
            Error::Memory { .. } => flowreg_code::Memory,
            Error::Overflow { .. } | Error::Diverged { .. } => flowreg_code::Numbers,
            Error::Io { .. } => flowreg_code::Io,
            Error::Format { .. } | Error::Tensors { .. } => flowreg_code::Format,
            Error::Interrupted { .. } => flowreg_code::Stopped,
            _ => flowreg_code::Other,
        };
        let message = error.to_string();
        Failure { code, message }
    }
}

thread_local! {
    static LAST: RefCell<(flowreg_code, CString)> =
        RefCell::new((flowreg_code::Ok, CString::default()));
}

/// Call `work`. Its error or panic becomes the calling thread's last error.
pub(crate) fn guard(work: impl FnOnce() -> Result<(), Failure>) -> flowreg_code {
    // Unwind safe: models are immutable, and `work` writes only plain numbers.
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return flowreg_code::Ok,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::of_panic(&*payload),
    };
    let mut message = failure.message.into_bytes();
    message.retain(|&byte| byte != 0);
    let message = CString::new(message).unwrap_or_default();
    // A thread that is ending cannot store the message; the code is returned.
    let _ = LAST.try_with(|last| last.replace((failure.code, message)));
    failure.code
}

/// The code of the calling thread's last failure; FLOWREG_CODE_OK if it had none.
#[unsafe(no_mangle)]
pub extern "C" fn flowreg_last_error_code() -> flowreg_code {
    (LAST.try_with(|last| last.borrow().0)).unwrap_or(flowreg_code::Ok)
}

/// The message of the calling thread's last failure, in UTF-8: what was found and what was expected;
/// "" if it had none. The text is valid until the thread's next failure or call of
/// flowreg_clear_error, or the end of the thread.
#[unsafe(no_mangle)]
pub extern "C" fn flowreg_last_error_message() -> *const c_char {
    (LAST.try_with(|last| last.borrow().1.as_ptr())).unwrap_or(c"".as_ptr())
}

/// Clear the calling thread's last failure.
#[unsafe(no_mangle)]
pub extern "C" fn flowreg_clear_error() {
    let _ = LAST.try_with(|last| last.replace((flowreg_code::Ok, CString::default())));
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn message() -> String {
        let text = flowreg_last_error_message();
        // SAFETY: the text ends with NUL, and no call has failed since.
        unsafe { CStr::from_ptr(text) }
            .to_str()
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_panic_is_an_internal_error() {
        assert_eq!(message(), "");
        assert_eq!(guard(|| panic!("row {}", 7)), flowreg_code::Internal);
        assert_eq!(flowreg_last_error_code(), flowreg_code::Internal);
        assert!(message().contains("row 7"), "{}", message());
        assert_eq!(guard(|| std::panic::panic_any(7)), flowreg_code::Internal);
        assert!(message().contains("no message"), "{}", message());
    }

    #[test]
    fn nul_bytes_are_removed_from_messages() {
        let code = guard(|| Err(Failure::argument("pa\0th", "a", "b")));
        assert_eq!(code, flowreg_code::Argument);
        assert_eq!(message(), "path: found a, expected b");
        assert_eq!(guard(|| Ok(())), flowreg_code::Ok);
        assert_eq!(message(), "path: found a, expected b");
        flowreg_clear_error();
        assert_eq!(message(), "");
        assert_eq!(flowreg_last_error_code(), flowreg_code::Ok);
    }
}
