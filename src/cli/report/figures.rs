//! The figures of a report as SVG files: black on white, for papers.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::progress::Epoch;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Margins: left, right, top, bottom.
const MARGINS: [f64; 4] = [64.0, 16.0, 16.0, 48.0];
/// Ratio of the largest to the smallest loss above which the axis is logarithmic.
const LOG_FROM: f64 = 30.0;
const COLOURS: [&str; 2] = ["#21705c", "#b4532a"];

/// The title and axis names of a curve.
#[derive(Clone, Copy)]
pub(super) struct Axes {
    title: &'static str,
    x: &'static str,
    y: &'static str,
}

/// The axes of an SGD fit.
pub(super) const EPOCHS: Axes = Axes {
    title: "Loss over the epochs",
    x: "epoch",
    y: "loss",
};

/// The axes of a converged fit.
pub(super) const STEPS: Axes = Axes {
    title: "Objective over the steps",
    x: "step",
    y: "objective",
};

/// The curve of the loss over the epochs (objective over the steps), and of the validation loss if
/// there is one.
pub(super) fn curve(history: &[Epoch], axes: Axes) -> String {
    let losses: Vec<(f64, f64)> = (history.iter()).map(|e| (e.epoch as f64, e.loss)).collect();
    let validation: Vec<(f64, f64)> = (history.iter())
        .filter_map(|e| Some((e.epoch as f64, e.val_loss?)))
        .collect();
    let lines = [(axes.y, &losses), ("validation loss", &validation)];
    let all = || lines.iter().flat_map(|(_, points)| points.iter());
    let (low, high) = range(all().map(|point| point.1));
    let log = low > 0.0 && high > LOG_FROM * low;
    let y_of = |y: f64| if log { y.log10() } else { y };
    let (y0, y1) = if log {
        (low.log10(), high.log10())
    } else {
        (low.min(0.0), high)
    };
    let (x0, x1) = range(all().map(|point| point.0));
    let [left, right, top, bottom] = MARGINS;
    let share = |v: f64, low: f64, high: f64| {
        if high > low {
            (v - low) / (high - low)
        } else {
            0.5
        }
    };
    let px = |x: f64| left + (WIDTH - left - right) * share(x, x0, x1);
    let py = |y: f64| HEIGHT - bottom - (HEIGHT - top - bottom) * share(y_of(y), y0, y1);

    let mut svg = open(WIDTH, HEIGHT, axes.title);
    let values: Vec<f64> = if log {
        (y0.floor() as i32..=y1.ceil() as i32)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power)))
            .filter(|&v| {
                (y0..=y1).contains(&v.log10()) && (y1 - y0 < 3.0 || v.log10().fract() == 0.0)
            })
            .collect()
    } else {
        steps(y0, y1)
    };
    for value in values {
        let y = py(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - right,
            left - 8.0,
            y + 4.0,
            short(value)
        );
    }
    for value in steps(x0, x1) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            px(value),
            HEIGHT - bottom + 20.0,
            short(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (left + WIDTH - right) / 2.0,
        HEIGHT - 8.0,
        axes.x
    );
    for (i, (name, points)) in lines
        .iter()
        .enumerate()
        .filter(|(_, (_, points))| !points.is_empty())
    {
        let colour = COLOURS[i];
        let path: Vec<String> = (points.iter())
            .map(|&(x, y)| format!("{:.2},{:.2}", px(x), py(y)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" style=\"fill:{colour}\">{name}</text>",
            path.join(" "),
            WIDTH - right,
            top + 14.0 + 18.0 * i as f64
        );
    }
    svg + "</svg>\n"
}

/// The confusion matrix. Rows are true classes, columns predicted ones; a cell's shade is its share
/// of the row.
pub(super) fn confusion(counts: &BTreeMap<(u32, u32), u32>, names: &[String]) -> String {
    let classes = names.len();
    let cell = (560.0 / classes as f64).min(40.0);
    // Names are written if a cell is as high as a line of text.
    let named = cell >= 8.0;
    let longest = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let size = cell.min(12.0);
    let left = if named {
        12.0 + 0.6 * size * longest as f64
    } else {
        36.0
    };
    let top = 36.0;
    let side = cell * classes as f64;
    let mut svg = open(left + side + 12.0, top + side + 12.0, "Confusion matrix");
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{side:.2}\" height=\"{side:.2}\" fill=\"none\" stroke=\"#999\"/>\
         <text x=\"{}\" y=\"20\" text-anchor=\"middle\">predicted</text>",
        left + side / 2.0
    );
    if named {
        for (i, name) in names.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.2}\" text-anchor=\"end\" style=\"font-size:{size}px\">{}</text>",
                left - 6.0,
                top + cell * (i as f64 + 0.5) + 0.35 * size,
                escaped(name)
            );
        }
    } else {
        let _ = writeln!(
            svg,
            "<text transform=\"translate(20 {}) rotate(-90)\" text-anchor=\"middle\">true class</text>",
            top + side / 2.0
        );
    }
    let mut rows = vec![0u32; classes];
    counts
        .iter()
        .for_each(|((label, _), n)| rows[*label as usize] += n);
    for (&(label, predicted), &n) in counts {
        let share = f64::from(n) / f64::from(rows[label as usize]);
        let colour = COLOURS[usize::from(label != predicted)];
        let _ = writeln!(
            svg,
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{cell:.2}\" height=\"{cell:.2}\" fill=\"{colour}\" \
             fill-opacity=\"{:.3}\"><title>{} as {}: {n}</title></rect>",
            left + cell * f64::from(predicted),
            top + cell * f64::from(label),
            0.1 + 0.9 * share.sqrt(),
            escaped(&names[label as usize]),
            escaped(&names[predicted as usize])
        );
    }
    svg + "</svg>\n"
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\">\n<title>{title}</title>\n\
         <style>text{{font:12px sans-serif;fill:#333}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    )
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    })
}

/// About five round numbers from `low` to `high`.
fn steps(low: f64, high: f64) -> Vec<f64> {
    if high <= low || !(high - low).is_finite() {
        return vec![low];
    }
    let raw = (high - low) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|s| *s >= raw);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number with at most four decimals.
fn short(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(1e-3..1e6).contains(&size) => format!("{value:.0e}"),
        _ => format!("{value:.4}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_string(),
    }
}

/// A text, escaped for XML.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_string(),
            '<' => "&lt;".to_string(),
            '>' => "&gt;".to_string(),
            '"' => "&quot;".to_string(),
            // XML cannot represent control characters.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => "\u{fffd}".to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: usize, loss: f64, val_loss: Option<f64>) -> Epoch {
        Epoch {
            epoch,
            lr: 0.1,
            loss,
            val_loss,
            val_accuracy: val_loss,
        }
    }

    #[test]
    fn a_curve_has_one_line_per_loss_inside_the_figure() {
        for factor in [1.0, 1e3, 0.0, 1e-9] {
            let history: Vec<Epoch> = (0..20)
                .map(|i| epoch(i, factor * i as f64 + 0.5, Some(1.0)))
                .collect();
            let svg = curve(&history, EPOCHS);
            assert_eq!(svg.matches("<polyline").count(), 2);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for points in svg.split("points=\"").skip(1) {
                for point in points.split('"').next().unwrap().split(' ') {
                    let (x, y) = point.split_once(',').unwrap();
                    assert!((0.0..=WIDTH).contains(&x.parse::<f64>().unwrap()));
                    assert!((0.0..=HEIGHT).contains(&y.parse::<f64>().unwrap()));
                }
            }
        }
        assert_eq!(
            curve(&[epoch(0, 1.0, None)], STEPS)
                .matches("<polyline")
                .count(),
            1
        );
    }

    #[test]
    fn class_names_are_escaped() {
        let counts = BTreeMap::from([((0, 1), 3), ((1, 1), 2)]);
        let names = ["<b>&\"\u{1}".to_string(), "rose".to_string()];
        let svg = confusion(&counts, &names);
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(
            svg.contains("&lt;b&gt;&amp;&quot;\u{fffd} as rose: 3"),
            "{svg}"
        );
    }
}
