//! Pictures of rows and weights.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rayon::prelude::*;

use crate::data::dataset::Transform;
use crate::data::pictures::jpeg;
use crate::data::resample::resize_to_planes;
use crate::model::Model;

/// Limit on the side of a picture in the report.
const SIDE: usize = 128;
/// Limit on the pictures of weights.
const MOST: usize = 400;
/// Share of a weight's values that the scale spans; larger values are clipped.
const SPANNED: f64 = 0.995;
/// Pixels between the pictures of a sheet.
const GAP: usize = 4;

/// A square of `side x side` interleaved RGB pixels.
pub(super) struct Picture {
    side: usize,
    values: Vec<u8>,
}

impl Picture {
    /// A picture from `3 x size x size` bytes, reduced to at most [`SIDE`].
    fn from_planes(planes: &[u8], size: usize) -> Picture {
        let interleave = |planes: &[u8], area: usize| -> Vec<u8> {
            (0..area)
                .flat_map(|i| [planes[i], planes[area + i], planes[2 * area + i]])
                .collect()
        };
        let values = interleave(planes, size * size);
        if size <= SIDE {
            return Picture { side: size, values };
        }
        let planes = resize_to_planes(&values, size, size, SIDE);
        Picture {
            side: SIDE,
            values: interleave(&planes, SIDE * SIDE),
        }
    }

    /// The picture as a JPEG in a `data:` URI.
    pub fn data_uri(&self) -> String {
        // Pictures of weights are noisy: a JPEG has a quarter of the bytes of a PNG.
        let bytes = jpeg::encode_rgb(&self.values, self.side, self.side, 82.0)
            .expect("memory takes all bytes");
        format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(bytes))
    }
}

/// The picture of a row of `3 x size x size` values in 0..=1; `None` for another number of values.
pub(super) fn of_row(row: &[f32], transform: &Transform) -> Option<Picture> {
    let planes: Vec<u8> = (row.iter())
        .map(|&value| (value * 255.0).round() as u8)
        .collect();
    let picture = || Picture::from_planes(&planes, transform.size);
    transform.makes(row.len()).then(picture)
}

/// The pictures of the weights of the first [`MOST`] classes; none if the features are no pixels.
pub(super) fn of_weights(model: &Model) -> Vec<Picture> {
    let weight = model.weight();
    let size = match &model.about().transform {
        Some(transform) if transform.makes(weight.cols()) => transform.size,
        _ => return Vec::new(),
    };
    (0..weight.rows().min(MOST))
        .into_par_iter()
        .map(|class| of_weight(weight.row(class), size))
        .collect()
}

/// The picture of a weight: 0 is grey, and each class has its own scale.
fn of_weight(weight: &[f32], size: usize) -> Picture {
    let mut sizes: Vec<f32> = weight.iter().map(|w| w.abs()).collect();
    let last = ((sizes.len() - 1) as f64 * SPANNED) as usize;
    let (_, &mut largest, _) = sizes.select_nth_unstable_by(last, f32::total_cmp);
    let scale = 127.5 / largest.max(1e-30);
    let planes: Vec<u8> = (weight.iter())
        .map(|w| (127.5 + w * scale).round() as u8)
        .collect();
    Picture::from_planes(&planes, size)
}

/// A PNG of all pictures, in rows on white.
pub(super) fn sheet(pictures: &[Picture]) -> Vec<u8> {
    let side = pictures[0].side;
    let columns = (pictures.len() as f64 * 4.0 / 3.0).sqrt().ceil() as usize;
    let rows = pictures.len().div_ceil(columns);
    let length = |count: usize| count * (side + GAP) - GAP;
    let (width, height) = (length(columns), length(rows));
    let mut values = vec![255; 3 * width * height];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = ((i % columns) * (side + GAP), (i / columns) * (side + GAP));
        for (y, line) in picture.values.chunks_exact(3 * side).enumerate() {
            values[3 * ((top + y) * width + left)..][..3 * side].copy_from_slice(line);
        }
    }
    let mut bytes = Vec::new();
    let mut png = png::Encoder::new(&mut bytes, width as u32, height as u32);
    png.set_color(png::ColorType::Rgb);
    png.set_compression(png::Compression::Fast);
    (png.write_header())
        .and_then(|mut writer| writer.write_image_data(&values))
        .expect("memory takes all bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_interleaved_pixels() {
        let row: Vec<f32> = (0..12).map(|v| v as f32 / 255.0).collect();
        let picture = of_row(&row, &Transform::of_photographs(2)).unwrap();
        assert_eq!(picture.values, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert!(of_row(&row, &Transform::of_photographs(3)).is_none());
        assert!(
            picture
                .data_uri()
                .starts_with("data:image/jpeg;base64,/9j/")
        );
    }

    #[test]
    fn a_weight_of_zero_is_grey() {
        let picture = of_weight(&[0.0; 12], 2);
        assert!(picture.values.iter().all(|v| *v == 128));
        let weight: Vec<f32> = (0..12).map(|v| (v as f32 - 5.5) / 5.5).collect();
        let picture = of_weight(&weight, 2);
        assert_eq!((picture.values[0], picture.values[11]), (0, 255));
    }

    #[test]
    fn a_sheet_contains_every_picture() {
        let tile = |v| Picture {
            side: 2,
            values: vec![v; 12],
        };
        let bytes = sheet(&[tile(1), tile(2), tile(3), tile(4), tile(5)]);
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut values = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut values).unwrap();
        assert_eq!((info.width, info.height), (14, 8));
        let at = |x: usize, y: usize| values[3 * (14 * y + x)];
        assert_eq!(
            (at(0, 0), at(6, 0), at(12, 1), at(0, 6), at(6, 7), at(3, 0)),
            (1, 2, 3, 4, 5, 255)
        );
    }
}
