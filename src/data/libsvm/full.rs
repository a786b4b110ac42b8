//! Columns with a value in every row: only these may lose digits in f32.
//!
//! A column with an omitted zero varies by as much as its values, so that their rounding is small
//! relative to its standard deviation.

use std::path::Path;

use crate::data::columns::Columns;
use crate::error::Result;

/// The place of an index that is not observed.
const NONE: u32 = u32::MAX;

/// Statistics of the columns in the first row of the first text; for later texts, of the columns in
/// all rows of the first.
pub struct FullColumns {
    /// The place of each index in `indices`, or [`NONE`].
    places: Vec<u32>,
    indices: Vec<u32>,
    counts: Vec<u64>,
    columns: Columns,
    rows: u64,
    /// The shift of each column, after the first text.
    shift: Option<Vec<f64>>,
    /// Statistics of the current text, after the first.
    other: Option<Columns>,
}

impl FullColumns {
    /// The columns of a first row. Memory: 72 bytes per value, and 4 per index.
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

    /// Add a row.
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

    /// End a text: refuse its columns that lose digits, or, in the first text with `center`, shift
    /// them.
    ///
    /// # Errors
    /// As [`Columns::shift_or_refuse`] and [`Columns::refuse_other_split`], with the index of the
    /// feature.
    pub fn end(&mut self, center: bool, path: &Path) -> Result<()> {
        let name = |place: usize| format!("index {}", self.indices[place]);
        if let Some(other) = &self.other {
            self.columns.refuse_other_split(other, path, name)?;
        } else {
            // Only columns with a value in every row.
            for (place, &count) in self.counts.iter().enumerate() {
                if count < self.rows {
                    self.columns.reset(place);
                }
            }
            self.shift = self.columns.shift_or_refuse(center, path, name)?;
        }
        let columns = self.indices.len();
        self.other = Some(Columns::shifted(columns, self.shift.as_deref()));
        Ok(())
    }

    /// The shift of each feature; `None` if none is shifted.
    pub fn shift(&self, first_index: usize, features: usize) -> Option<Vec<f64>> {
        let of_columns = self.shift.as_ref()?;
        let mut shift = vec![0.0; features];
        for (&index, &value) in self.indices.iter().zip(of_columns) {
            shift[index as usize - first_index] = value;
        }
        Some(shift)
    }
}
