//! The dataset, the model and its export record `--exif`, flowreg-predict applies it, and without it
//! flowreg-prep says how many orientations it ignores.

mod common;

use common::world::{FIT, PREDICT, PREP, World, succeeds};
use flowreg::{Dataset, Model};
use serde_json::json;

#[test]
fn predict_applies_the_exif_orientation_of_prep() {
    let world = World::new();
    let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    // The names of the files do not matter.
    for (from, to) in [
        ("turned.jpg", "mine/a/0"),
        ("turned.png", "mine/a/1.gif"),
        ("turned.webp", "mine/b/0.png"),
        ("turned-by-xmp.jpg", "mine/b/1.jpg"),
    ] {
        let to = world.path(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(pictures.join(from), to).unwrap();
    }
    let mut rows = Vec::new();
    for (more, data, run) in [
        (&[][..], "plain", "plain-run"),
        (&["--exif"], "exif", "exif-run"),
    ] {
        let args = [
            "folder",
            "--root",
            "mine",
            "--val-share",
            "0",
            "--test-share",
            "0",
        ];
        let args = [&args[..], &["--size", "16", "--out", data], more].concat();
        let printed = succeeds(&world.run(PREP, &args));
        for part in [
            "orientation ignored",
            ": 4 photograph(s); --exif turns them upright",
        ] {
            assert_eq!(printed.contains(part), more.is_empty(), "{printed}");
        }
        let dataset = Dataset::open(world.path(data)).unwrap();
        let orientation = dataset.manifest().transform.clone().unwrap().orientation;
        assert_eq!(orientation.as_deref(), more.first().map(|_| "exif"));

        succeeds(&world.run(FIT, &[data, "--epochs", "3", "--out", run]));
        let model = Model::load(world.path(run).join("model.safetensors")).unwrap();
        let kept = model.about().transform.clone().unwrap().orientation;
        assert_eq!(kept, orientation);

        let exported = format!("{run}-exported");
        succeeds(&world.run(FIT, &["export", run, "--out", &exported]));
        let onnx = std::fs::read(world.path(&exported).join("model.onnx")).unwrap();
        let mut transform = json!({"size": 16, "filter": "bilinear-antialias", "layout": "chw"});
        if let Some(orientation) = orientation {
            transform["orientation"] = orientation.into();
        }
        let metadata = [("class_names", json!(["a", "b"])), ("transform", transform)];
        assert_eq!(
            common::onnx::metadata(&onnx),
            metadata.map(|(key, json)| (key.to_string(), json))
        );

        let x = format!("{data}/train.x.npy");
        let of = |input: &str, out: &str| {
            succeeds(&world.run(PREDICT, &[run, input, "--npy", out]));
            std::fs::read(world.path(out)).unwrap()
        };
        assert_eq!(
            of("mine", &format!("{run}-p.npy")),
            of(&x, &format!("{run}-x.npy"))
        );
        rows.push(std::fs::read(world.path(&x)).unwrap());
    }
    assert_ne!(rows[0], rows[1]);
}
