//! Ctrl-C and SIGTERM: the first sets the [`Cancel`] that the command line gives to every fit,
//! preparation and download; the second ends the process at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use crate::error::{Error, Result};
use crate::progress::Cancel;

/// The signal that was received; 0 for none.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Installs the handlers of Ctrl-C and SIGTERM; called by [`super::own_process`].
///
/// # Errors
/// [`Error::Io`] if the operating system refuses.
pub fn listen() -> Result<()> {
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;

    let listen = || -> std::io::Result<()> {
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order, so that the first signal does not exit.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
            flag::register(signal, Arc::clone(&armed))?;
            flag::register_usize(signal, Arc::clone(&SIGNAL), signal as usize)?;
        }
        // With a handler, a write beyond `ulimit -f` is an error and does not end the process.
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(())
    };
    listen().map_err(Error::io("signals".as_ref(), "listen to"))
}

/// The signal that was received, if any.
pub fn signal() -> Option<u8> {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal as u8),
    }
}

/// Returns an error after a signal.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    cancel().check()
}

/// The [`Cancel`] that a signal sets.
pub fn cancel() -> Cancel {
    Cancel::of_flag(Arc::clone(&SIGNAL))
}
