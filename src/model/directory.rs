//! The directory of a model: `model.safetensors`, and files of others beside it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::publish::{OutputKind, Overwrite, Staging};
use crate::model::Model;

/// File name of the model in its directory; that of a run contains it, too.
pub const MODEL: &str = "model.safetensors";

impl Model {
    /// The model file of a directory, or the file itself.
    pub fn file_of(path: &Path) -> PathBuf {
        if path.is_dir() {
            path.join(MODEL)
        } else {
            path.to_path_buf()
        }
    }

    /// Write a directory with [`MODEL`] and `others`, which are names and contents of files. It
    /// appears complete or not at all. `flowreg-predict DIRECTORY` and `Model::load` of its
    /// [`MODEL`] read it.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is something, unless [`Overwrite::Replace`] is given and it is a
    /// directory that this function wrote, without anything else in it; [`Error::Format`] for a
    /// weight or bias that is not finite; [`Error::Options`] for a name that is no name of another
    /// file of the directory; [`Error::Locked`]; [`Error::Io`].
    ///
    /// ```
    /// use flowreg::{Model, Overwrite};
    ///
    /// # let temporary = tempfile::tempdir().unwrap();
    /// # let directory = &temporary.path().join("model");
    /// let model = Model::new(vec![1.0, -1.0], vec![0.5])?;
    /// model.save_directory(directory, &[("about.txt", b"drawn by hand")], Overwrite::Never)?;
    /// assert_eq!(Model::load(Model::file_of(directory))?, model);
    /// # Ok::<(), flowreg::Error>(())
    /// ```
    pub fn save_directory(
        &self,
        directory: &Path,
        others: &[(&str, &[u8])],
        overwrite: Overwrite,
    ) -> Result<()> {
        self.refuse_non_finite(directory)?;
        for (name, _) in others {
            let is_name = Path::new(name).file_name() == Some(name.as_ref());
            if !is_name || name.starts_with('.') || *name == MODEL {
                let expected = format!("the name of a file other than {MODEL}, without a folder");
                return Err(Error::options("`others`", format!("{name:?}"), expected));
            }
        }
        let staging = Staging::begin(directory, OutputKind::Model, overwrite, &[])?;
        self.save(staging.dir().join(MODEL))?;
        for (name, content) in others {
            staging.write(name, content)?;
        }
        staging.publish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn model(bias: f32) -> Model {
        Model::new(vec![1.0, -1.0], vec![bias]).unwrap()
    }

    #[test]
    fn a_directory_replaces_only_a_directory_of_a_model() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("model");
        let save =
            |bias, overwrite| model(bias).save_directory(&out, &[("notes.json", b"{}")], overwrite);
        save(0.5, Overwrite::Never).unwrap();
        let error = save(1.5, Overwrite::Never).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Exists {
                    replaceable: true,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(Model::load(Model::file_of(&out)).unwrap(), model(0.5));
        save(1.5, Overwrite::Replace).unwrap();
        assert_eq!(Model::load(Model::file_of(&out)).unwrap(), model(1.5));
        fs::write(out.join("mine.txt"), "kept").unwrap();
        assert!(
            save(2.5, Overwrite::Replace)
                .unwrap_err()
                .to_string()
                .contains("mine.txt")
        );
        assert_eq!(Model::load(Model::file_of(&out)).unwrap(), model(1.5));

        // A run has a model, too.
        let run = root.path().join("run");
        let staging = Staging::begin(&run, OutputKind::Run, Overwrite::Never, &[]).unwrap();
        staging.write("summary.json", b"{}").unwrap();
        model(0.5).save(staging.dir().join(MODEL)).unwrap();
        staging.publish().unwrap();
        let error = model(1.5)
            .save_directory(&run, &[], Overwrite::Replace)
            .unwrap_err();
        assert!(
            error.to_string().contains("found a run, expected a model"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_read_again_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("model");
        let error = model(f32::NAN)
            .save_directory(&out, &[], Overwrite::Never)
            .unwrap_err();
        assert!(error.to_string().contains("bias[0]"), "{error}");
        for name in ["", "..", "a/b", "/a", MODEL, ".flowreg.json"] {
            let error = model(0.5).save_directory(&out, &[(name, b"")], Overwrite::Never);
            assert!(matches!(error, Err(Error::Options { .. })), "{name}");
        }
        assert!(!out.exists());
    }
}
