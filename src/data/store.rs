//! A read-only memory map of a little-endian f32 matrix: one of the rooms where
//! `unsafe` may live.
//!
//! The map is a view of a file that another process could change or cut short while
//! it is read. flowreg never writes a published file in place (it writes a sibling and
//! renames it), so only a foreign program can do that; the values would then change
//! under a running fit, or the process would end with SIGBUS.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

use super::npy::{Dtype, Header, MAX_HEADER};
use crate::error::{Error, Result};
use crate::mat::MatRef;

#[cfg(target_endian = "big")]
compile_error!("datasets are little-endian and mapped as they are; this machine is big-endian");

/// A matrix in a `.npy` file, mapped and never copied.
#[derive(Debug)]
pub struct MappedMatrix {
    map: Mmap,
    offset: usize,
    rows: usize,
    cols: usize,
}

impl MappedMatrix {
    /// Map `path`, which must hold a two-dimensional `<f4` array of exactly its length.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let (header, _) = read_header(path, &file)?;
        if header.dtype != Dtype::F32 {
            return Err(Error::format(
                path,
                "descr",
                header.dtype.descr(),
                "<f4, which is mapped as it is (flowreg-prep npy converts others)",
            ));
        }
        let &[rows, cols] = header.shape.as_slice() else {
            return Err(Error::format(
                path,
                "shape",
                format!("{:?}", header.shape),
                "two dimensions (rows, features)",
            ));
        };
        // SAFETY: the file is opened read-only and the map is private to this value; the
        // module comment says what happens if somebody else changes the file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map into memory"))?;
        // The length was checked against the file; it must also hold for the map.
        if map.len() != header.data_offset + rows * cols * 4 {
            return Err(Error::format(
                path,
                "length",
                map.len(),
                "the length it had a moment ago; it changed while being opened",
            ));
        }
        Ok(MappedMatrix {
            map,
            offset: header.data_offset,
            rows,
            cols,
        })
    }

    /// The matrix. Cost: none; pages are read when touched.
    pub fn view(&self) -> MatRef<'_> {
        // `offset` is a multiple of 64 and maps start at a page: the cast cannot fail.
        let values = bytemuck::cast_slice(&self.map[self.offset..]);
        MatRef::new(values, self.rows, self.cols)
    }
}

/// Read a whole one-dimensional file of whole numbers (`<i8`, `<i4` or `|u1`): the labels.
pub fn read_labels(path: &Path) -> Result<Vec<i64>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let (header, mut bytes) = read_header(path, &file)?;
    let &[n] = header.shape.as_slice() else {
        return Err(Error::format(
            path,
            "shape",
            format!("{:?}", header.shape),
            "one dimension",
        ));
    };
    let of_value: fn(&[u8]) -> i64 = match header.dtype {
        Dtype::I64 => |b| i64::from_le_bytes(b.try_into().expect("chunks of 8")),
        Dtype::I32 => |b| i32::from_le_bytes(b.try_into().expect("chunks of 4")).into(),
        Dtype::U8 => |b| b[0].into(),
        Dtype::F64 | Dtype::F32 | Dtype::F16 => {
            let expected = "whole numbers: <i8, <i4 or |u1 (numpy's astype makes them)";
            return Err(Error::format(path, "descr", header.dtype.descr(), expected));
        }
    };
    // The header was held against the file's length, so `n` is bounded by it.
    let size = header.dtype.size();
    let expected = header.data_offset + n * size;
    (&file)
        .take((expected - bytes.len().min(expected)) as u64)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path, "read"))?;
    if bytes.len() < expected {
        return Err(Error::format(
            path,
            "length",
            bytes.len(),
            expected.to_string(),
        ));
    }
    let values = bytes[header.data_offset..expected].chunks_exact(size);
    Ok(values.map(of_value).collect())
}

/// Parse and check the header; also returns the bytes that were read for it.
pub(crate) fn read_header(path: &Path, file: &File) -> Result<(Header, Vec<u8>)> {
    let len = file
        .metadata()
        .map_err(Error::io(path, "read the length of"))?
        .len();
    let mut head = Vec::with_capacity(MAX_HEADER);
    file.take(MAX_HEADER as u64)
        .read_to_end(&mut head)
        .map_err(Error::io(path, "read"))?;
    let header = Header::parse(&head, len).map_err(|source| Error::Npy {
        path: path.to_path_buf(),
        source,
    })?;
    Ok((header, head))
}
