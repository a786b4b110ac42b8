//! Columns that have a value in every row: those that may lose digits in f32.
//!
//! A column in which the text leaves out a zero differs by all of its values from row to row, so
//! that rounding takes nothing of its differences.

use std::path::Path;

use crate::data::columns::Columns;
use crate::error::Result;

/// A column that is not looked at.
const NONE: u32 = u32::MAX;

/// What is seen of the columns that the first row has.
pub struct FullColumns {
    /// For each index its place, or [`NONE`].
    places: Vec<u32>,
    indices: Vec<u32>,
    counts: Vec<u64>,
    columns: Columns,
    rows: u64,
}

impl FullColumns {
    /// Of a first row. Memory: 72 bytes for each of its values, and 4 for each index.
    pub fn new(first: &[(u32, f64)]) -> FullColumns {
        let indices: Vec<u32> = first.iter().map(|(index, _)| *index).collect();
        let mut places = vec![NONE; indices.last().map_or(0, |&last| last as usize + 1)];
        for (place, &index) in indices.iter().enumerate() {
            places[index as usize] = place as u32;
        }
        FullColumns {
            places,
            counts: vec![0; indices.len()],
            columns: Columns::new(indices.len()),
            indices,
            rows: 0,
        }
    }

    /// Take note of a row.
    pub fn observe(&mut self, values: &[(u32, f64)]) {
        self.rows += 1;
        for &(index, value) in values {
            match self.places.get(index as usize) {
                None | Some(&NONE) => {}
                Some(&place) => {
                    self.counts[place as usize] += 1;
                    self.columns.observe(place as usize, value);
                }
            }
        }
    }

    /// Only those that every row had.
    pub fn end(&mut self) {
        for (place, &count) in self.counts.iter().enumerate() {
            if count < self.rows {
                self.columns.forget(place);
            }
        }
    }

    /// What to subtract of each feature, if there is one that loses digits and it may be
    /// (`center`).
    ///
    /// # Errors
    /// Those of [`Columns::settle`], with the index of the feature.
    pub fn settle(
        &self,
        center: bool,
        path: &Path,
        first_index: usize,
        features: usize,
    ) -> Result<Option<Vec<f64>>> {
        let name = |place: usize| format!("index {}", self.indices[place]);
        let Some(of_columns) = self.columns.settle(center, path, name)? else {
            return Ok(None);
        };
        let mut shift = vec![0.0; features];
        for (&index, value) in self.indices.iter().zip(of_columns) {
            shift[index as usize - first_index] = value;
        }
        Ok(Some(shift))
    }
}
