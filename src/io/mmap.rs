//! A read-only memory map of a little-endian f32 matrix: one of the rooms where
//! `unsafe` may live.
//!
//! The map is a view of a file that another process could change or cut short while
//! it is read. Formally that is undefined behaviour: the map is handed out as a shared slice, whose
//! values must not change. No program on a common operating system can rule it out, as `memmap2`
//! says of every map. flowreg never writes a published file in place (it writes a sibling and
//! renames it), so only a foreign program can do that. What happens then:
//!
//! - cut short: an access beyond the new end raises SIGBUS. Programs that called
//!   [`exit_on_truncation`] end with one line and exit code 75, without a core dump; the
//!   output in the making is never published, and the next run removes it;
//! - rewritten: a read gives the old bytes or the new ones, and the result may be of both. All
//!   values of f32 are valid, so that no later read is out of bounds for it.
//!   [`MappedMatrix::check_unchanged`], asked before anything is published, compares length and time
//!   of the last write.
//!
//! A program that uses the library and installs no handler dies of SIGBUS, as with any map.
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
compile_error!("datasets are little-endian and mapped as they are; this machine is big-endian");

/// A matrix in a `.npy` file, mapped and never copied.
#[derive(Debug)]
pub struct MappedMatrix {
    path: PathBuf,
    file: WatchedFile,
    // Before the map, so that it is forgotten before the addresses are free.
    #[cfg(unix)]
    _watched: Option<sigbus::Watched>,
    map: Mmap,
    offset: usize,
    rows: usize,
    cols: usize,
}

impl MappedMatrix {
    /// Map `path`, which must hold a two-dimensional `<f4` array of exactly its length.
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
        // The length was checked against the file; it must also hold for the map.
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

    /// The matrix. Cost: none; pages are read when touched.
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

    /// Refuse if somebody wrote to the file since it was opened. A file that was replaced by
    /// another of its name is still the one that was opened.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }
}

/// Parse the header and hold it against the file's length.
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

/// The labels of a dataset: the bytes as they were written, and the numbers.
#[derive(Debug)]
pub(crate) struct Labels {
    pub header: Vec<u8>,
    pub data: Vec<u8>,
    pub values: Vec<i64>,
}

/// Read the whole file of a dataset's labels: `<i8` of one dimension.
pub(crate) fn read_labels(path: &Path, rows: usize) -> Result<Labels> {
    let most = (rows as u64).saturating_mul(8);
    let most = most.saturating_add(MAX_HEADER as u64);
    let mut bytes = files::read(path, "open", most)?;
    let header = parse_header(path, &bytes, bytes.len() as u64)?;
    let plain = header.dtype == Dtype::I64 && !header.big_endian;
    if !plain || header.shape != [rows] {
        let found = format!("{} of shape {:?}", header.descr(), header.shape);
        let expected = format!("<i8 of one label a row, {rows}");
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

/// Features in a file that is mapped, or in memory.
#[derive(Debug)]
pub enum Matrix {
    /// As they lie in the file.
    Mapped(MappedMatrix),
    /// Made of what a file holds, row-major.
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

    /// The matrix. Cost: none.
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

    /// As [`MappedMatrix::check_unchanged`]; what is in memory does not change.
    pub fn check_unchanged(&self) -> Result<()> {
        match self {
            Matrix::Mapped(map) => map.check_unchanged(),
            Matrix::Held { .. } => Ok(()),
        }
    }
}

/// Exit code of a process whose mapped file was cut short: that of [`Error::Changed`].
pub const CUT_SHORT: u8 = 75;

/// From now on, end the process with one line on stderr and exit code 75 where a mapped file is
/// cut short under it; `line` makes that line of the message. Only files that are mapped afterwards
/// are known. For programs: the handler is the whole process's, and the library never calls it.
pub fn exit_on_truncation(line: fn(&str) -> String) {
    #[cfg(unix)]
    sigbus::install(line);
    #[cfg(not(unix))]
    let _ = line;
}

/// What a signal handler may do: look into static tables, `write`, `_exit`.
#[cfg(unix)]
mod sigbus {
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::ops::Range;
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Maps watched at a time; those beyond are not, and die of SIGBUS.
    const MAPS: usize = 64;

    /// A range of addresses with its line: a sequence lock, as a handler may not wait.
    struct Slot {
        /// Odd while the slot is changed.
        version: AtomicUsize,
        start: AtomicUsize,
        end: AtomicUsize,
        /// What to say of it, or null if the slot is free.
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

        /// The line of the map that `address` lies in, if it is this slot's. Range and line are of
        /// one map: a slot that is changed meanwhile is not that of a map that is being read.
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
    /// Some thread has begun to end the process.
    static ENDING: AtomicBool = AtomicBool::new(false);
    /// Makes a line of a message.
    static LINE: OnceLock<fn(&str) -> String> = OnceLock::new();
    /// Held to change a slot; the handler only reads.
    static CHANGE: Mutex<()> = Mutex::new(());

    /// A map whose addresses the handler knows.
    #[derive(Debug)]
    pub struct Watched {
        slot: Option<usize>,
        _line: CString,
    }

    impl Watched {
        /// A map that the handler knows from now on, if there is a handler.
        pub fn new(map: &[u8], path: &Path) -> Option<Watched> {
            let line = LINE.get()?;
            let message = format!(
                "{}: cut short while it was in use; nothing was written: run again, on files that stay as they are",
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
        // SAFETY: a zeroed `sigaction` is an empty mask and no flags; the handler is of the
        // kind that SA_SIGINFO asks for and does only what a handler may. SA_ONSTACK: the
        // standard library gives every thread its own stack for signals.
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
                // Another thread is at it; one line is enough.
                loop {
                    // SAFETY: `pause` may be called in a handler.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: a slot's line outlives its map, whose address was just touched; `strlen`
            // is what `from_ptr` is, and it ends with a NUL. `write` reads the slice; it and
            // `_exit` may be called here.
            unsafe {
                let line = std::ffi::CStr::from_ptr(line).to_bytes();
                libc::write(2, line.as_ptr().cast(), line.len());
                libc::_exit(super::CUT_SHORT.into());
            }
        }
        // Not ours: the next try of the same access ends the process as it would have.
        // SAFETY: `signal` with a default is allowed in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// A slot that goes from one map to another never gives the line of the one with the range
        /// of the other, nor a range that is of both.
        #[test]
        fn a_slot_that_is_reused_gives_no_line_of_another_map() {
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
            // Half a change.
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
