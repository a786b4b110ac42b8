//! Conversion of C pointers to references, with checks.

use std::mem::{align_of, size_of};
use std::ptr;

use crate::failure::Failure;

/// Types for which every bit pattern is valid.
///
/// # Safety
/// The type has no invalid values and no destructor.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for usize {}

/// A struct that may get more fields at its end.
///
/// # Safety
/// The type is `repr(C)`, begins with `struct_size: usize`, has no invalid values except function
/// pointers, and no destructor.
pub(crate) unsafe trait Versioned: Copy {
    /// Size of the struct's first version.
    const FIRST_SIZE: usize;
    /// The values of fields that an older caller's struct does not have.
    const DEFAULT: Self;
}

/// Refuse NULL and pointers that are not aligned.
fn check<T>(what: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(what, "NULL", "a pointer"));
    }
    if !pointer.is_aligned() {
        let expected = format!("a multiple of {}", align_of::<T>());
        return Err(Failure::argument(what, format!("{pointer:p}"), expected));
    }
    Ok(())
}

/// Refuse more values than the address space can hold.
fn check_length<T>(what: &str, length: usize) -> Result<(), Failure> {
    match length.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(too_large(what, format!("{length} values"))),
    }
}

pub(crate) fn too_large(what: &str, found: impl ToString) -> Failure {
    let expected = format!("at most {} bytes", isize::MAX);
    Failure::argument(what, found, expected)
}

/// The product of two sizes.
pub(crate) fn product(what: &str, a: usize, b: usize) -> Result<usize, Failure> {
    (a.checked_mul(b)).ok_or_else(|| too_large(what, format!("{a} x {b} values")))
}

/// A slice of a C array; NULL is allowed for length 0.
///
/// # Safety
/// `pointer` is NULL or valid for reads of `length` values, which are not changed during `'a`.
pub(crate) unsafe fn slice<'a, T: Plain>(
    what: &str,
    pointer: *const T,
    length: usize,
) -> Result<&'a [T], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    check(what, pointer)?;
    check_length::<T>(what, length)?;
    // SAFETY: not NULL, aligned, no longer than an allocation can be; the rest is the caller's
    // contract.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// A mutable slice of a C array, set to 0. Refuses an array that overlaps `read`.
///
/// # Safety
/// `pointer` is NULL or valid for writes of `length` values, which are not used otherwise during `'a`,
/// except as `read`.
pub(crate) unsafe fn slice_mut<'a, T: Plain, R>(
    what: &str,
    pointer: *mut T,
    length: usize,
    read: &[R],
) -> Result<&'a mut [T], Failure> {
    if length == 0 {
        return Ok(&mut []);
    }
    check(what, pointer)?;
    check_length::<T>(what, length)?;
    let (out, read) = (pointer.addr(), read.as_ptr_range());
    if out < read.end.addr() && read.start.addr() < out.saturating_add(length * size_of::<T>()) {
        let expected = "an array that does not overlap what is read";
        return Err(Failure::argument(what, format!("{pointer:p}"), expected));
    }
    // SAFETY: not NULL, aligned, no longer than an allocation can be, and disjoint from `read`; the
    // rest is the caller's contract. C's memory may be uninitialized: it is written first.
    Ok(unsafe {
        ptr::write_bytes(pointer, 0, length);
        std::slice::from_raw_parts_mut(pointer, length)
    })
}

/// A reference to the pointer's target.
///
/// # Safety
/// `pointer` is NULL or valid for reads of a `T`, which is not changed during `'a`.
pub(crate) unsafe fn reference<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    check(what, pointer)?;
    // SAFETY: not NULL and aligned; the rest is the caller's contract.
    Ok(unsafe { &*pointer })
}

/// Write a value to the pointer's target.
///
/// # Safety
/// `pointer` is NULL or valid for writes of a `T`.
pub(crate) unsafe fn write<T>(what: &str, pointer: *mut T, value: T) -> Result<(), Failure> {
    check(what, pointer)?;
    // SAFETY: not NULL and aligned; the rest is the caller's contract. The old value is not read.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Refuse a size that no version of the struct has.
fn check_size<T: Versioned>(what: &str, size: usize) -> Result<(), Failure> {
    let (least, most) = (T::FIRST_SIZE, size_of::<T>());
    if (least..=most).contains(&size) && size.is_multiple_of(align_of::<T>()) {
        return Ok(());
    }
    let expected = format!(
        "{least} to {most}: set it to the struct's size, and link the library that belongs to the \
         header"
    );
    Err(Failure::argument(
        &format!("{what}.struct_size"),
        size,
        expected,
    ))
}

/// The `struct_size` of a C struct.
///
/// # Safety
/// `pointer` is NULL or valid for a read of a `struct_size`.
unsafe fn size_of_struct<T: Versioned>(what: &str, pointer: *const T) -> Result<usize, Failure> {
    check(what, pointer)?;
    // SAFETY: not NULL and aligned; the struct begins with its size, by the caller's contract.
    let size = unsafe { pointer.cast::<usize>().read() };
    check_size::<T>(what, size)?;
    Ok(size)
}

/// Read a C struct, which may be that of an older version and shorter.
///
/// # Safety
/// `pointer` is NULL or valid for reads of its `struct_size` bytes.
pub(crate) unsafe fn read_struct<T: Versioned>(
    what: &str,
    pointer: *const T,
) -> Result<T, Failure> {
    // SAFETY: the caller's contract.
    let size = unsafe { size_of_struct(what, pointer)? };
    let mut value = T::DEFAULT;
    // SAFETY: both have `size` bytes: C's by the caller's contract, `value` by `check_size`.
    unsafe {
        let to = (&raw mut value).cast::<u8>();
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), to, size);
    }
    Ok(value)
}

/// Refuse a struct that [`write_struct`] would refuse.
///
/// # Safety
/// As [`write_struct`].
pub(crate) unsafe fn check_struct<T: Versioned>(
    what: &str,
    pointer: *const T,
) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    unsafe { size_of_struct(what, pointer) }.map(|_| ())
}

/// Write the fields that the C struct has by its `struct_size`, which is kept.
///
/// # Safety
/// `pointer` is NULL or valid for reads and writes of its `struct_size` bytes.
pub(crate) unsafe fn write_struct<T: Versioned>(
    what: &str,
    pointer: *mut T,
    value: T,
) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    let size = unsafe { size_of_struct(what, pointer)? };
    // SAFETY: as above.
    unsafe { init_struct(what, pointer, size, value) }
}

/// Write the first `size` bytes of a struct, and `size` as its `struct_size`.
///
/// # Safety
/// `pointer` is NULL or valid for writes of `size` bytes.
pub(crate) unsafe fn init_struct<T: Versioned>(
    what: &str,
    pointer: *mut T,
    size: usize,
    value: T,
) -> Result<(), Failure> {
    check(what, pointer)?;
    check_size::<T>(what, size)?;
    // SAFETY: both have `size` bytes: C's by the caller's contract, `value` by `check_size`; and a
    // struct begins with its size.
    unsafe {
        let from = (&raw const value).cast::<u8>();
        ptr::copy_nonoverlapping(from, pointer.cast::<u8>(), size);
        pointer.cast::<usize>().write(size);
    }
    Ok(())
}
