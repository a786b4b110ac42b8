//! Events of a fit, passed to a C callback.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;

use flowreg::Event;

/// Kind of an event of a fit.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum flowreg_event {
    /// done of total columns of the Gram matrix are computed.
    GramMatrix = 0,
    /// The solver of flowreg_fit_path ended step number done; the start is 0.
    Step = 1,
    /// flowreg_fit_sgd ended epoch number done (from 1) of total.
    Epoch = 2,
    /// A warning, in message.
    Warning = 3,
}

/// An event. Later versions may add fields at the end, and kinds of events.
#[repr(C)]
pub struct flowreg_progress {
    /// A flowreg_event. Callbacks must ignore unknown kinds.
    pub event: i32,
    /// Number of columns, steps or epochs that are done.
    pub done: usize,
    /// Their total number; 0 if unknown.
    pub total: usize,
    /// The objective (step) or the mean loss (epoch), else NaN.
    pub objective: f64,
    /// Norm of the objective's gradient (step), else NaN.
    pub gradient_norm: f64,
    /// The text of a warning in UTF-8, else NULL. It is valid during the callback.
    pub message: *const c_char,
}

/// Called during a fit. A result other than 0 stops the fit, which then returns
/// FLOWREG_CODE_STOPPED and no model. Calls are made one at a time, often from a thread of the fit.
/// A callback must not throw or longjmp. It may call flowreg.
pub type flowreg_callback =
    Option<unsafe extern "C" fn(progress: *const flowreg_progress, user_data: *mut c_void) -> i32>;

/// A callback and its user data.
#[derive(Clone, Copy)]
pub(crate) struct Listener {
    callback: flowreg_callback,
    user_data: *mut c_void,
}

// SAFETY: the header allows calls from other threads, one at a time.
unsafe impl Send for Listener {}

impl Listener {
    /// # Safety
    /// `callback` may be called with `user_data` by any thread, one at a time, while the listener
    /// lives.
    pub(crate) unsafe fn new(callback: flowreg_callback, user_data: *mut c_void) -> Listener {
        Listener {
            callback,
            user_data,
        }
    }

    /// Call the callback for an event that has a flowreg_event; `epochs` is their total number.
    pub(crate) fn notify(&mut self, event: Event, epochs: usize) -> ControlFlow<()> {
        let Some(callback) = self.callback else {
            return ControlFlow::Continue(());
        };
        let mut progress = flowreg_progress {
            event: flowreg_event::GramMatrix as i32,
            done: 0,
            total: 0,
            objective: f64::NAN,
            gradient_norm: f64::NAN,
            message: ptr::null(),
        };
        let text;
        match event {
            Event::GramMatrix { columns, of } => {
                (progress.done, progress.total) = (columns, of);
            }
            Event::Step { step, .. } => {
                progress.event = flowreg_event::Step as i32;
                progress.done = step.iteration;
                progress.objective = step.objective;
                progress.gradient_norm = step.gradient_norm;
            }
            Event::Epoch(epoch) => {
                progress.event = flowreg_event::Epoch as i32;
                (progress.done, progress.total) = (epoch.epoch + 1, epochs);
                progress.objective = epoch.loss;
            }
            Event::Warning(message) => {
                progress.event = flowreg_event::Warning as i32;
                text = CString::new(message.replace('\0', "")).unwrap_or_default();
                progress.message = text.as_ptr();
            }
            _ => return ControlFlow::Continue(()),
        }
        // SAFETY: the contract of `new`; `progress` and its text live until the call returns.
        if unsafe { callback(&progress, self.user_data) } == 0 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}
