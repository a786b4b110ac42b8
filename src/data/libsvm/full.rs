//! Columns that have a value in every row: those that may lose digits in f32.
//!
//! A column in which the text leaves out a zero differs by all of its values from row to row, so
//! that rounding takes nothing of its differences.

use std::path::Path;

use crate::data::columns::Columns;
use crate::error::Result;

/// A column that is not looked at.
const NONE: u32 = u32::MAX;

/// What is seen of the columns that the first row of the first text has; of other texts, of those
/// that all rows of the first have.
pub struct FullColumns {
    /// For each index its place, or [`NONE`].
    places: Vec<u32>,
    indices: Vec<u32>,
    counts: Vec<u64>,
    columns: Columns,
    rows: u64,
    /// What to subtract of each column, once the first text was read.
    shift: Option<Vec<f64>>,
    /// Of the text after the first that is being read.
    other: Option<Columns>,
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
            shift: None,
            other: None,
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
                    let columns = self.other.as_mut().unwrap_or(&mut self.columns);
                    columns.observe(place as usize, value);
                }
            }
        }
    }

    /// At the end of a text: what f32 loses of it. Columns that lose digits in the first may be
    /// shifted (`center`).
    ///
    /// # Errors
    /// Those of [`Columns::settle`] and [`Columns::refuse_beside`], with the index of the feature.
    pub fn end(&mut self, center: bool, path: &Path) -> Result<()> {
        let name = |place: usize| format!("index {}", self.indices[place]);
        if let Some(other) = &self.other {
            self.columns.refuse_beside(other, path, name)?;
        } else {
            // Only those that every row had.
            for (place, &count) in self.counts.iter().enumerate() {
                if count < self.rows {
                    self.columns.forget(place);
                }
            }
            self.shift = self.columns.settle(center, path, name)?;
        }
        let columns = self.indices.len();
        self.other = Some(Columns::shifted(columns, self.shift.as_deref()));
        Ok(())
    }

    /// What to subtract of each feature, if there is one that is shifted.
    pub fn shift(&self, first_index: usize, features: usize) -> Option<Vec<f64>> {
        let of_columns = self.shift.as_ref()?;
        let mut shift = vec![0.0; features];
        for (&index, &value) in self.indices.iter().zip(of_columns) {
            shift[index as usize - first_index] = value;
        }
        Some(shift)
    }
}
