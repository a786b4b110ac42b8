//! The demo's photographs: synthetic flowers, drawn as JPEG files in Flowers102's layout.
//!
//! A class determines petals (number, shape, colours), disc and background; an image its position,
//! size, rotation, light and noise. An image depends only on the seed and its number, so that the
//! files are independent of the number of threads.

use std::f32::consts::{PI, TAU};
use std::path::Path;

use rand_mt::Mt;
use rayon::prelude::*;

use crate::data::pictures::jpeg;
use crate::data::{flowers102, mat5};
use crate::error::{Error, Result};
use crate::io::files::{self, NewFile};
use crate::progress::Cancel;

/// Options of the demo's photographs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Number of classes.
    pub classes: usize,
    /// Photographs of each class in the splits train, val and test.
    pub per_class: [usize; 3],
    /// Seed of classes and images.
    pub seed: u32,
    /// Stops the drawing when set.
    pub cancel: Option<Cancel>,
}

impl Default for DemoOptions {
    fn default() -> Self {
        DemoOptions {
            classes: 24,
            per_class: [10, 4, 12],
            seed: 0,
            cancel: None,
        }
    }
}

impl DemoOptions {
    /// Total number of photographs.
    pub fn photographs(&self) -> usize {
        self.classes * self.per_class.iter().sum::<usize>()
    }
}

/// Draw all photographs into `dir` (`jpg/image_00001.jpg …`) with the two `.mat` files.
///
/// `progress` is called after each photograph. Cost: about 5 ms of a core per photograph.
///
/// # Errors
/// [`Error::Io`], [`Error::Interrupted`].
pub fn write_photographs(
    dir: &Path,
    options: &DemoOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let classes = classes(options);
    let cancel = options.cancel.clone().unwrap_or_default();
    let jpg = dir.join("jpg");
    files::create_dir_all(&jpg)?;

    // Images are ordered by class, and within a class by split.
    let each: usize = options.per_class.iter().sum();
    let labels: Vec<i64> = (0..options.photographs())
        .map(|image| (image / each) as i64 + 1)
        .collect();
    let ids = |split: usize| -> Vec<i64> {
        let first: usize = options.per_class[..split].iter().sum();
        (0..options.classes)
            .flat_map(|class| {
                let start = class * each + first + 1;
                (start..start + options.per_class[split]).map(|id| id as i64)
            })
            .collect()
    };
    let write = |name: &str, bytes: &[u8]| files::write(&dir.join(name), bytes);
    write(
        flowers102::LABELS,
        &mat5::write_integers(&[("labels", &labels)]),
    )?;
    let (train, val, test) = (ids(0), ids(1), ids(2));
    let splits = [("trnid", &*train), ("valid", &*val), ("tstid", &*test)];
    write(flowers102::SPLITS, &mat5::write_integers(&splits))?;

    (0..options.photographs())
        .into_par_iter()
        .try_for_each(|image| {
            cancel.check()?;
            let path = jpg.join(format!("image_{:05}.jpg", image + 1));
            let seed = mix(options.seed, image as u32 + 1);
            let Photograph {
                width,
                height,
                values,
            } = draw(&classes[image / each], &mut Random::new(seed));
            let bytes = jpeg::encode_rgb(&values, width, height, QUALITY)
                .map_err(Error::io(&path, "encode"))?;
            // Not flushed: files lost by a power cut can be drawn again.
            NewFile::create(&path)?.append(&bytes)?;
            progress(1);
            Ok(())
        })
}

/// The name of each class: colour, shape and number of petals.
pub fn class_names(options: &DemoOptions) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for class in classes(options) {
        let name = format!(
            "{} {} of {} petals",
            class.colour_name, class.shape_name, class.petals
        );
        let twins = names.iter().filter(|n| n.starts_with(&name)).count();
        names.push(match twins {
            0 => name,
            _ => format!("{name} ({})", twins + 1),
        });
    }
    names
}

/// Quality of the JPEG files.
const QUALITY: f32 = 88.0;

type Rgb = [f32; 3];

/// The properties that all flowers of a class share.
struct Class {
    petals: u32,
    /// Exponent of the petal's outline: small is round, large is narrow.
    outline: f32,
    /// Depth of the notch at the tip.
    notch: f32,
    shape_name: &'static str,
    tip: Rgb,
    base: Rgb,
    colour_name: &'static str,
    disc: Rgb,
    disc_radius: f32,
    radius: f32,
    background: [Rgb; 2],
}

/// Colours of petals, in 0..=1.
const PETALS: [(&str, Rgb); 10] = [
    ("crimson", [0.78, 0.08, 0.16]),
    ("orange", [0.95, 0.50, 0.08]),
    ("golden", [0.96, 0.80, 0.12]),
    ("white", [0.95, 0.94, 0.90]),
    ("pink", [0.93, 0.52, 0.68]),
    ("violet", [0.50, 0.22, 0.70]),
    ("blue", [0.25, 0.38, 0.85]),
    ("lilac", [0.75, 0.62, 0.90]),
    ("magenta", [0.82, 0.12, 0.55]),
    ("salmon", [0.96, 0.62, 0.50]),
];
/// Name, exponent of the outline, depth of the notch.
const SHAPES: [(&str, f32, f32); 4] = [
    ("bloom", 0.55, 0.0),
    ("star", 1.4, 0.0),
    ("heart", 0.6, 0.22),
    ("ray", 3.0, 0.0),
];
const DISCS: [Rgb; 4] = [
    [0.90, 0.72, 0.10],
    [0.30, 0.18, 0.08],
    [0.55, 0.70, 0.20],
    [0.95, 0.90, 0.55],
];
const BACKGROUNDS: [[Rgb; 2]; 4] = [
    [[0.10, 0.26, 0.08], [0.28, 0.46, 0.18]],
    [[0.20, 0.16, 0.09], [0.44, 0.38, 0.22]],
    [[0.06, 0.14, 0.12], [0.20, 0.34, 0.30]],
    [[0.32, 0.40, 0.30], [0.62, 0.68, 0.50]],
];

fn classes(options: &DemoOptions) -> Vec<Class> {
    (0..options.classes as u32)
        .map(|class| {
            let mut random = Random::new(mix(options.seed ^ 0x464C_4F57, class));
            let (colour_name, tip) = PETALS[class as usize % PETALS.len()];
            let (shape_name, outline, notch) = *random.pick(&SHAPES);
            let fade = random.between(-0.35, 0.35);
            Class {
                petals: 4 + random.below(9),
                outline,
                notch,
                shape_name,
                tip,
                base: tip.map(|v| (v + fade).clamp(0.0, 1.0)),
                colour_name,
                disc: *random.pick(&DISCS),
                disc_radius: random.between(0.12, 0.32),
                radius: random.between(0.30, 0.44),
                background: *random.pick(&BACKGROUNDS),
            }
        })
        .collect()
}

/// An RGB image, interleaved.
struct Photograph {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

/// An image of the demo as a JPEG of this size, in pixels: for benchmarks with photographs of
/// realistic size.
///
/// # Panics
/// If a side is 0 or above 65,535, or `image` is not below [`DemoOptions::photographs`].
pub fn photograph(options: &DemoOptions, image: usize, width: usize, height: usize) -> Vec<u8> {
    let class = image / options.per_class.iter().sum::<usize>();
    let mut random = Random::new(mix(options.seed, image as u32 + 1));
    let drawn = paint(&classes(options)[class], &mut random, width, height);
    jpeg::encode_rgb(&drawn.values, width, height, QUALITY).expect("a Vec takes all bytes")
}

fn draw(class: &Class, random: &mut Random) -> Photograph {
    let short = 200 + random.below(60) as usize;
    let long = short + random.below(80) as usize;
    let (width, height) = match random.below(2) {
        0 => (short, long),
        _ => (long, short),
    };
    paint(class, random, width, height)
}

fn paint(class: &Class, random: &mut Random, width: usize, height: usize) -> Photograph {
    let side = width.min(height) as f32;
    let radius = side * class.radius * random.between(0.85, 1.15);
    let centre = (
        width as f32 * 0.5 + side * random.between(-0.07, 0.07),
        height as f32 * 0.5 + side * random.between(-0.07, 0.07),
    );
    let turn = random.between(0.0, TAU);
    let tilt = random.between(0.82, 1.0);
    let light = random.between(0.8, 1.15);
    let leaves = Noise::new(random, 7);
    let grain = Noise::new(random, 40);
    // Slope of the stem.
    let lean = random.between(-0.35, 0.35);

    let mut values = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let depth = 0.6 * leaves.at(u, v) + 0.4 * v;
            let mut colour = blend(class.background[0], class.background[1], depth);
            let (dx, dy) = (x as f32 - centre.0, (y as f32 - centre.1) / tilt);
            if dy > 0.0 {
                let stem = side * 0.018 - (dx - lean * dy).abs();
                colour = blend(colour, [0.22, 0.42, 0.14], coverage(stem));
            }
            let r = dx.hypot(dy);
            if r < radius * 1.05 {
                let angle = dy.atan2(dx) + turn;
                // A second ring behind: larger, darker, and rotated by half a petal.
                let behind = petals(class, angle + PI / class.petals as f32, r, radius);
                colour = over(colour, behind, 0.72);
                colour = over(colour, petals(class, angle, r, radius * 0.9), 1.0);
                let disc = radius * class.disc_radius - r;
                let dots = 0.75 + 0.5 * grain.at(u, v);
                colour = blend(colour, class.disc.map(|v| v * dots), coverage(disc));
            }
            let shade = light * (0.92 + 0.16 * grain.at(u, v));
            values.extend(colour.map(|v| (v * shade * 255.0 + 0.5) as u8));
        }
    }
    Photograph {
        width,
        height,
        values,
    }
}

/// Colour and coverage of a ring of petals at polar coordinates around the flower's centre.
fn petals(class: &Class, angle: f32, r: f32, radius: f32) -> (Rgb, f32) {
    let sector = TAU / class.petals as f32;
    // -1..=1 across one petal, 0 on its axis.
    let across = 2.0 * (angle / sector).rem_euclid(1.0) - 1.0;
    let outline = (across * PI / 2.0).cos().max(0.0).powf(class.outline);
    let notch = 1.0 - class.notch * (-(across / 0.28).powi(2)).exp();
    let edge = radius * (0.25 + 0.75 * outline) * notch;
    let vein = 0.94 + 0.06 * (across * 9.0).cos();
    let rim = 1.0 - 0.25 * across.abs().powi(3);
    let colour = blend(class.base, class.tip, (r / radius).powf(0.8)).map(|v| v * vein * rim);
    (colour, coverage(edge - r))
}

fn over(below: Rgb, (colour, cover): (Rgb, f32), shade: f32) -> Rgb {
    blend(below, colour.map(|v| v * shade), cover)
}

/// Share of a pixel inside of an edge, from its distance to the edge.
fn coverage(distance: f32) -> f32 {
    (distance + 0.5).clamp(0.0, 1.0)
}

fn blend(a: Rgb, b: Rgb, t: f32) -> Rgb {
    let t = t.clamp(0.0, 1.0);
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// Smooth noise in 0..=1: a grid of random values, interpolated.
struct Noise {
    cells: usize,
    grid: Vec<f32>,
}

impl Noise {
    fn new(random: &mut Random, cells: usize) -> Noise {
        let grid = (0..(cells + 1).pow(2)).map(|_| random.between(0.0, 1.0));
        Noise {
            cells,
            grid: grid.collect(),
        }
    }

    /// The value at a point of the unit square.
    fn at(&self, u: f32, v: f32) -> f32 {
        let (u, v) = (u * self.cells as f32, v * self.cells as f32);
        let (i, j) = (u as usize, v as usize);
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (s, t) = (smooth(u.fract()), smooth(v.fract()));
        let row = self.cells + 1;
        let at = |i: usize, j: usize| self.grid[j * row + i];
        let top = at(i, j) + (at(i + 1, j) - at(i, j)) * s;
        let bottom = at(i, j + 1) + (at(i + 1, j + 1) - at(i, j + 1)) * s;
        top + (bottom - top) * t
    }
}

struct Random(Mt);

impl Random {
    fn new(seed: u32) -> Random {
        Random(Mt::new(seed))
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32;
        low + (high - low) * unit
    }

    fn below(&mut self, n: u32) -> u32 {
        self.0.next_u32() % n
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len() as u32) as usize]
    }
}

/// A seed from two numbers, such that neighbouring numbers give unrelated seeds.
fn mix(a: u32, b: u32) -> u32 {
    let x = (a ^ b.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
    (x ^ (x >> 15)).wrapping_mul(0xC2B2_AE35) ^ b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::flowers102::Verify;
    use crate::data::photographs::Loader;
    use crate::data::pictures::DecodeOptions;

    const SMALL: DemoOptions = DemoOptions {
        classes: 3,
        per_class: [2, 1, 1],
        seed: 5,
        cancel: None,
    };

    fn files(threads: usize) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| write_photographs(dir.path(), &SMALL, &|_| {}))
            .unwrap();
        (1..=SMALL.photographs())
            .map(|i| std::fs::read(dir.path().join(format!("jpg/image_{i:05}.jpg"))).unwrap())
            .collect()
    }

    #[test]
    fn files_are_reproducible_and_different() {
        let once = files(1);
        assert!(once == files(2));
        assert!(once.iter().enumerate().all(|(i, a)| !once[..i].contains(a)));
    }

    #[test]
    fn the_demo_is_read_as_flowers102() {
        let dir = tempfile::tempdir().unwrap();
        write_photographs(dir.path(), &SMALL, &|_| {}).unwrap();
        let photographs = flowers102::open(dir.path(), Verify::Any, &Cancel::new()).unwrap();
        let labels: Vec<Vec<u32>> = (photographs.splits.iter())
            .map(|split| split.rows.iter().map(|row| row.1).collect())
            .collect();
        assert_eq!(
            labels,
            [vec![0, 0, 1, 1, 2, 2], vec![0, 1, 2], vec![0, 1, 2]]
        );
        for split in &photographs.splits {
            for (photograph, _) in &split.rows {
                let mut row = vec![0.0; 3 * 16 * 16];
                let mut loader = Loader::default();
                loader
                    .load(photograph, 16, &DecodeOptions::default(), &mut row)
                    .unwrap();
                assert!(row.iter().any(|&value| value > 0.0));
            }
        }
        assert!(flowers102::open(dir.path(), Verify::Official, &Cancel::new()).is_err());
        let names = class_names(&DemoOptions::default());
        assert!(
            names
                .iter()
                .enumerate()
                .all(|(i, n)| !names[..i].contains(n))
        );
    }
}
