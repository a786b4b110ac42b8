//! Standard output that fails at byte k, or whose reader leaves after k bytes.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Campaign, PREDICT, Trials, bounded, finish, of_run};

/// File size limit where standard output fails: far larger than any output of this campaign.
const LIMIT: u64 = 4 << 20;

impl Campaign {
    pub fn standard_output(&mut self) {
        let mut fails = Trials::of(
            "standard output fails at byte k (full, no larger file), prep, fit, predict",
        );
        let mut leaves = Trials::of("the reader of standard output leaves after k bytes");
        let fit = ["--epochs", "3", "--no-report", "--force"];
        assert!(finish(self.fit("printing", &fit)).status.success());
        type Program<'a> = (&'a str, &'a dyn Fn(&Campaign) -> Command);
        let programs: [Program; 6] = [
            ("prep", &|c| c.prep("printed", "8", &[])),
            ("prep", &|c| c.prep("printed", "8", &["--json-logs"])),
            ("fit", &|c| c.fit("printed", &fit[..3])),
            ("fit", &|c| {
                c.fit("printed", &["--epochs", "3", "--json-logs"])
            }),
            ("predict", &|c| c.predict(&["--csv"])),
            ("predict", &|c| c.predict(&["--json"])),
        ];
        for (name, program) in programs {
            let whole = finish(program(self));
            assert!(whole.status.success());
            let _ = fs::remove_dir_all(self.path("printed"));
            // Printed times vary in length, and so may the output.
            let said = whole.stdout.len() - 60;
            let full = File::options().write(true).open("/dev/full").unwrap();
            let mut command = program(self);
            command.stdout(full).stderr(Stdio::piped());
            self.failed(&mut fails, name, 0, bounded(command.spawn().unwrap()));
            for _ in 0..self.times(25, 3) {
                let k = self.index(said) as u64;
                let room = self.path("printed.txt");
                File::create(&room).unwrap().set_len(LIMIT - k).unwrap();
                let script = format!(
                    "ulimit -f {}; exec \"$0\" \"$@\" >> printed.txt",
                    LIMIT / 512
                );
                let output = finish(self.by_shell(&script, program(self)));
                let written = fs::metadata(&room).unwrap().len();
                fails.tried(written <= LIMIT, || format!("{name}: {written} bytes"));
                self.failed(&mut fails, name, k, output);

                let mut child = program(self)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut reader = child.stdout.take().unwrap();
                reader.read_exact(&mut vec![0; k as usize]).unwrap();
                drop(reader);
                let output = bounded(child);
                let quiet = output.status.code() == Some(0) && output.stderr.is_empty();
                let whole = self.printed_whole(name);
                leaves.tried(quiet && whole, || format!("{name} {k}: {output:?}"));
            }
        }
        self.end(fails, "exit 74, one line; datasets and runs are whole");
        self.end(leaves, "exit 0 and not a word; datasets and runs are whole");
    }

    fn failed(&self, trials: &mut Trials, name: &str, k: u64, output: Output) {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = said.lines().count() == 1 && said.contains("standard output");
        let whole = self.printed_whole(name);
        let right = output.status.code() == Some(74) && told && whole;
        trials.tried(right, || format!("{name} {k}: {output:?}, whole: {whole}"));
    }

    /// Whether the output was published; removes it for the next trial.
    fn printed_whole(&self, name: &str) -> bool {
        let path = self.path("printed");
        let whole = match name {
            "prep" => path.exists() && self.absent_or_complete("printed"),
            "fit" => of_run(&path).is_some(),
            _ => !path.exists(),
        };
        let _ = fs::remove_dir_all(path);
        whole
    }

    fn predict(&self, more: &[&str]) -> Command {
        let mut command = Command::new(PREDICT);
        command.args(["printing", "data/train.x.npy", "data/test.x.npy"]);
        command.args(more).current_dir(self.dir.path());
        command
    }

    /// Run a program by a shell, after `ulimit` and other shell commands.
    fn by_shell(&self, script: &str, program: Command) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(program.get_program());
        command.args(program.get_args());
        command.current_dir(self.dir.path() as &Path);
        command
    }
}
