//! Read-only memory map of a little-endian f32 matrix. One of the modules that may use `unsafe`.
//!
//! Another process could write to or truncate the file while it is mapped. Formally that is undefined
//! behaviour: the map is a shared slice, whose values must not change. No common operating system can
//! prevent it, as the documentation of `memmap2` says. flowreg never writes a published file in place
//! (it writes a sibling and renames it), so only another program can do it. The effects:
//!
//! - truncated: an access beyond the new end raises SIGBUS. Programs that called
//!   [`exit_on_truncation`] exit with a message and code 75, without a core dump; unfinished output
//!   is not published, and the next run removes it;
//! - rewritten: a read returns old or new bytes, and a result may mix both. Every bit pattern is a
//!   valid f32, so no later read is out of bounds because of it. [`MappedMatrix::check_unchanged`],
//!   called before each publication, compares length and modification time.
//!
//! A program that uses the library without the handler is killed by SIGBUS, as with any map.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::io::files;
use crate::io::files::{WatchedFile, changed};
use crate::io::npy::{Dtype, Header, MAX_HEADER};
use crate::linalg::mat::MatRef;

#[cfg(target_endian = "big")]
compile_error!(
    "datasets are little-endian and mapped without conversion; this machine is big-endian"
);

/// A matrix in a `.npy` file, memory-mapped without a copy.
#[derive(Debug)]
pub struct MappedMatrix {
    path: PathBuf,
    file: WatchedFile,
    // Declared before `map`, to be dropped before the addresses are unmapped.
    #[cfg(unix)]
    _watched: Option<sigbus::Watched>,
    map: Mmap,
    offset: usize,
    rows: usize,
    cols: usize,
}

impl MappedMatrix {
    /// Map `path`, a `.npy` file with a two-dimensional `<f4` array in C order.
    ///
    /// # Errors
    /// [`Error::Npy`]; [`Error::Format`] for another shape, type or order; [`Error::Changed`];
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let watched = WatchedFile::new(path, file)?;
        let (file, len) = (&watched.file, watched.len);
        let header = read_header(path, file, len)?;
        let &[rows, cols] = header.shape.as_slice() else {
            return Err(Error::format(
                path,
                "shape",
                format!("{:?}", header.shape),
                "two dimensions (rows, features)",
            ));
        };
        if !header.is_mappable() {
            let order = if header.fortran_order { "Fortran" } else { "C" };
            let found = format!(
                "{} in {order} order, from byte {}",
                header.descr(),
                header.data_offset
            );
            let expected = "<f4 in C order from a multiple of 4: only that is mapped as it lies";
            return Err(Error::format(path, "header", found, expected));
        }
        // SAFETY: the file is opened read-only and the map is private to this value. That no other
        // process changes the file cannot be ensured here: see the module comment.
        let map = unsafe { Mmap::map(file) }.map_err(Error::io(path, "map into memory"))?;
        // The header was checked against the file's length; check the map's length too.
        if map.len() as u64 != len {
            return Err(changed(path, len, map.len() as u64));
        }
        Ok(MappedMatrix {
            path: path.to_path_buf(),
            file: watched,
            #[cfg(unix)]
            _watched: sigbus::Watched::new(&map, path),
            map,
            offset: header.data_offset,
            rows,
            cols,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The matrix, rows x cols. Cost: none; pages are read on first access.
    pub fn view(&self) -> MatRef<'_> {
        // `offset` is a multiple of 4 and maps start at a page: the cast cannot fail.
        MatRef::new(bytemuck::cast_slice(self.data()), self.rows, self.cols)
    }

    /// The matrix as bytes.
    pub fn data(&self) -> &[u8] {
        &self.map[self.offset..]
    }

    /// The header as bytes.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.offset]
    }

    /// Check that the file has not been written to since it was opened. Replacing it by another file
    /// of the same name does no harm: the opened file stays mapped.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }
}

/// Parse the header and compare it with the file's length.
pub(crate) fn read_header(path: &Path, file: &File, len: u64) -> Result<Header> {
    let mut head = Vec::with_capacity(MAX_HEADER);
    file.take(MAX_HEADER as u64)
        .read_to_end(&mut head)
        .map_err(Error::io(path, "read"))?;
    parse_header(path, &head, len)
}

pub(crate) fn parse_header(path: &Path, head: &[u8], len: u64) -> Result<Header> {
    Header::parse(head, len).map_err(|source| Error::Npy {
        path: path.to_path_buf(),
        source,
    })
}

/// The labels of a dataset: the bytes of the file, and the numbers.
#[derive(Debug)]
pub(crate) struct Labels {
    pub header: Vec<u8>,
    pub data: Vec<u8>,
    pub values: Vec<i64>,
}

/// Read the labels of a dataset: a one-dimensional `<i8` array of `rows` values.
pub(crate) fn read_labels(path: &Path, rows: usize) -> Result<Labels> {
    let most = (rows as u64).saturating_mul(8);
    let most = most.saturating_add(MAX_HEADER as u64);
    let mut bytes = files::read(path, "open", most)?;
    let header = parse_header(path, &bytes, bytes.len() as u64)?;
    let plain = header.dtype == Dtype::I64 && !header.big_endian;
    if !plain || header.shape != [rows] {
        let found = format!("{} of shape {:?}", header.descr(), header.shape);
        let expected = format!("<i8 of shape [{rows}], a label per row");
        return Err(Error::format(path, "header", found, expected));
    }
    let data = bytes.split_off(header.data_offset);
    let words = data.as_chunks::<8>().0.iter();
    Ok(Labels {
        values: words.map(|&word| i64::from_le_bytes(word)).collect(),
        header: bytes,
        data,
    })
}

/// A matrix of features, mapped from its file or in memory.
#[derive(Debug)]
pub enum Matrix {
    /// Mapped from the file.
    Mapped(MappedMatrix),
    /// Converted from the file, row-major.
    Held {
        /// The file.
        path: PathBuf,
        /// rows x cols.
        values: Vec<f32>,
        /// n.
        rows: usize,
        /// d.
        cols: usize,
    },
}

impl Matrix {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Matrix::Mapped(map) => map.path(),
            Matrix::Held { path, .. } => path,
        }
    }

    /// The matrix, rows x cols. Cost: none.
    pub fn view(&self) -> MatRef<'_> {
        match self {
            Matrix::Mapped(map) => map.view(),
            Matrix::Held {
                values, rows, cols, ..
            } => MatRef::new(values, *rows, *cols),
        }
    }

    /// The matrix as bytes.
    pub fn data(&self) -> &[u8] {
        match self {
            Matrix::Mapped(map) => map.data(),
            Matrix::Held { values, .. } => bytemuck::cast_slice(values),
        }
    }

    /// [`MappedMatrix::check_unchanged`] if mapped; else always `Ok`.
    pub fn check_unchanged(&self) -> Result<()> {
        match self {
            Matrix::Mapped(map) => map.check_unchanged(),
            Matrix::Held { .. } => Ok(()),
        }
    }
}

/// Exit code of a process whose mapped file was truncated: that of [`Error::Changed`].
pub const CUT_SHORT: u8 = 75;

/// Install a SIGBUS handler that ends the process with a message on stderr and exit code 75 when a
/// mapped file is truncated. `line` formats the message. The handler knows only files that are
/// mapped later. For binaries: it belongs to the whole process, and the library never installs it.
pub fn exit_on_truncation(line: fn(&str) -> String) {
    #[cfg(unix)]
    sigbus::install(line);
    #[cfg(not(unix))]
    let _ = line;
}

/// The SIGBUS handler. It uses only async-signal-safe operations: static atomics, `write`, `_exit`.
#[cfg(unix)]
mod sigbus {
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::ops::Range;
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Number of maps that the handler knows at a time; for others SIGBUS kills the process.
    const MAPS: usize = 64;

    /// The address range of a map and its message, under a sequence lock: a handler may not wait.
    struct Slot {
        /// Odd during a change.
        version: AtomicUsize,
        start: AtomicUsize,
        end: AtomicUsize,
        /// The message, or null if the slot is free.
        line: AtomicPtr<c_char>,
    }

    impl Slot {
        const fn free() -> Slot {
            Slot {
                version: AtomicUsize::new(0),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                line: AtomicPtr::new(null_mut()),
            }
        }

        /// Change the slot; the caller holds [`CHANGE`].
        fn set(&self, range: Range<usize>, line: *mut c_char) {
            let version = self.version.load(Ordering::Relaxed);
            self.version.store(version + 1, Ordering::Relaxed);
            fence(Ordering::Release);
            self.start.store(range.start, Ordering::Relaxed);
            self.end.store(range.end, Ordering::Relaxed);
            self.line.store(line, Ordering::Relaxed);
            self.version.store(version + 2, Ordering::Release);
        }

        /// The message if `address` is in the slot's range. Range and message belong to the same
        /// map: `None` if the slot changes meanwhile, which is then not the slot of a map in use.
        fn line_of(&self, address: usize) -> Option<*const c_char> {
            let version = self.version.load(Ordering::Acquire);
            let line = self.line.load(Ordering::Relaxed);
            let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            let is_whole =
                version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
            (is_whole && !line.is_null() && range.contains(&address)).then_some(line.cast_const())
        }
    }

    static SLOTS: [Slot; MAPS] = [const { Slot::free() }; MAPS];
    /// Whether a thread is ending the process.
    static ENDING: AtomicBool = AtomicBool::new(false);
    /// The formatter of messages; set if the handler is installed.
    static LINE: OnceLock<fn(&str) -> String> = OnceLock::new();
    /// Locked to change a slot; the handler only reads.
    static CHANGE: Mutex<()> = Mutex::new(());

    /// Registration of a map with the handler, until dropped.
    #[derive(Debug)]
    pub struct Watched {
        slot: Option<usize>,
        _line: CString,
    }

    impl Watched {
        /// Register a map, if the handler is installed.
        pub fn new(map: &[u8], path: &Path) -> Option<Watched> {
            let line = LINE.get()?;
            let message = format!(
                "{}: cut short while it was in use; nothing was written: run again, on files that do not change",
                path.display()
            );
            let start = map.as_ptr() as usize;
            // A path with a NUL cannot have been opened.
            let line = CString::new(line(&message) + "\n").unwrap_or_default();
            let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
            let free = |slot: &Slot| slot.line.load(Ordering::Relaxed).is_null();
            let slot = SLOTS.iter().position(free);
            if let Some(slot) = slot {
                SLOTS[slot].set(start..start + map.len(), line.as_ptr().cast_mut());
            }
            Some(Watched { slot, _line: line })
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = self.slot {
                SLOTS[slot].set(0..0, null_mut());
            }
        }
    }

    pub fn install(line: fn(&str) -> String) {
        let _ = LINE.set(line);
        // SAFETY: a zeroed `sigaction` has an empty mask and no flags; the handler has the signature
        // that SA_SIGINFO requires and is async-signal-safe. SA_ONSTACK: the standard library gives
        // every thread a signal stack.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }

    extern "C" fn on_sigbus(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel gives a valid `info`, in which SIGBUS has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        for slot in &SLOTS {
            let Some(line) = slot.line_of(address) else {
                continue;
            };
            if ENDING.swap(true, Ordering::AcqRel) {
                // Another thread is ending the process and prints the message.
                loop {
                    // SAFETY: `pause` may be called in a handler.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: a slot's line outlives its map, which is in use at `address`. `from_ptr` calls
            // `strlen`; the line ends with a NUL. `write` reads the slice. All may be called in a
            // handler.
            unsafe {
                let line = std::ffi::CStr::from_ptr(line).to_bytes();
                libc::write(2, line.as_ptr().cast(), line.len());
                libc::_exit(super::CUT_SHORT.into());
            }
        }
        // Not a registered map: with the default action the repeated access kills the process.
        // SAFETY: `signal` with the default action may be called in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A reused slot never pairs the message of a map with the range of another.
        #[test]
        fn a_reused_slot_never_mixes_two_maps() {
            let slot = Slot::free();
            let lines = [c"below", c"above"].map(|line| line.as_ptr().cast_mut());
            let (below, above) = (lines[0] as usize, lines[1] as usize);
            let is_right = |address: usize| {
                slot.line_of(address).is_none_or(|line| match address {
                    1500 => line as usize == below,
                    8500 => line as usize == above,
                    _ => false,
                })
            };
            // In the middle of a change.
            slot.set(1000..2000, lines[0]);
            slot.version.fetch_add(1, Ordering::Relaxed);
            slot.end.store(9000, Ordering::Relaxed);
            assert!([1500, 5000, 8500].into_iter().all(is_right));
            slot.version.fetch_add(1, Ordering::Relaxed);
            slot.set(4000..6000, lines[0]);
            assert_eq!(slot.line_of(5000), Some(lines[0].cast_const()));
            slot.set(0..0, null_mut());
            assert_eq!(slot.line_of(5000), None);
        }
    }
}
