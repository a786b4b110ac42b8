//! `mpirun -n P flowreg-fit` writes the same model for every P, and ends all of its processes with one
//! message if one of them fails. Needs the feature `mpi` and an `mpirun` of the library that it was
//! built with (`FLOWREG_MPIRUN`, or `mpirun`).
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::process::bounded;
use flowreg::io::npy::{self, Dtype, Header};

const FIT: &str = env!("CARGO_BIN_EXE_flowreg-fit");

/// The launcher of so many processes.
fn mpirun(processes: usize) -> Command {
    let name = std::env::var("FLOWREG_MPIRUN").unwrap_or_else(|_| "mpirun".to_string());
    let mut command = Command::new(name);
    allow_any_number(&mut command);
    command.args(["-n", &processes.to_string()]);
    command.stdin(Stdio::null());
    command
}

/// Sets the variables with which a launcher runs more processes than there are cores, as root too.
fn allow_any_number(command: &mut Command) {
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        // Containers may forbid one process to read the memory of another.
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ] {
        command.env(name, value);
    }
}

fn start(command: &mut Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("mpirun: install an MPI")
}

fn run(command: &mut Command) -> Output {
    bounded(start(command))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with rows, labels and validation rows.
struct Data {
    dir: tempfile::TempDir,
    /// One test at a time: each has more processes than there are cores.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Data {
    /// 60 rows of 2000 features in 5 classes; features are bytes over 255, or any floats.
    fn new(bytes: bool) -> Data {
        Data::of_shape(60, 2000, bytes)
    }

    /// 4400 rows of 12 features in 5 classes.
    fn tall() -> Data {
        Data::of_shape(4400, 12, false)
    }

    fn of_shape(rows: usize, features: usize, bytes: bool) -> Data {
        let dir = tempfile::tempdir().unwrap();
        let mut uniform = common::uniform(5);
        for (name, rows) in [("train", rows), ("val", 20)] {
            let value = |_| match bytes {
                true => (uniform() * 255.0).round() / 255.0,
                false => 4.0 * uniform() - 1.0,
            };
            let x: Vec<f32> = (0..rows * features).map(value).collect();
            let file = npy::f32_file(&[rows, features], &x);
            std::fs::write(dir.path().join(format!("{name}.x.npy")), file).unwrap();
            let mut y = Header::encode(Dtype::U8, &[rows]);
            // The first feature tells something of tall data.
            let label = |i: usize| match features {
                2000 => i * 7 % 5,
                _ => (i * 7 + x[i * features].max(0.0) as usize) % 5,
            };
            y.extend((0..rows).map(|i| label(i) as u8));
            std::fs::write(dir.path().join(format!("{name}.y.npy")), y).unwrap();
        }
        Data {
            dir,
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn arguments(&self, out: &str) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (x, y, out) = (path("train.x.npy"), path("train.y.npy"), path(out));
        let own = ["--x", &x, "--y", &y, "--out", &out];
        let short = ["--gemm", "own", "--no-report"];
        own.iter()
            .chain(&short)
            .map(|word| (*word).to_string())
            .collect()
    }

    fn validation(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (x, y) = (path("val.x.npy"), path("val.y.npy"));
        ["--x-val", &x, "--y-val", &y].map(str::to_string).to_vec()
    }

    fn model(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.path(out).join("model.safetensors")).unwrap()
    }

    /// Fits with `processes`, 0 being no launcher, and returns the bytes of the model.
    fn fit(&self, processes: usize, out: &str, extra: &[String]) -> Vec<u8> {
        let mut command = match processes {
            0 => Command::new(FIT),
            _ => mpirun(processes),
        };
        if processes > 0 {
            command.arg(FIT);
        }
        let output = run(command.args(self.arguments(out)).args(extra));
        assert!(output.status.success(), "{processes}: {}", stderr(&output));
        self.model(out)
    }

    /// The names in the folder that are no input. A killed process leaves a lock and a partial output,
    /// whose names begin with a dot; the next run replaces them.
    fn outputs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let other = ["train.", "val.", "."];
        let known = |name: &String| other.iter().any(|start| name.starts_with(start));
        names.filter(|name| !known(name)).collect()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

#[test]
fn any_number_of_processes_writes_the_model_of_one_if_features_are_bytes() {
    let data = Data::new(true);
    let options = words("--lr 0.0005 --init zeros --epochs 40 --momentum 0.9");
    let alone = data.fit(0, "alone", &options);
    for processes in [1, 2, 4, 8] {
        let found = data.fit(processes, &format!("run{processes}"), &options);
        assert!(found == alone, "{processes} processes");
    }
}

#[test]
fn any_number_of_processes_writes_the_same_model() {
    let data = Data::new(false);
    let validation = data.validation().join(" ");
    let trajectory = "--lr 0.0005 --epochs 30 --momentum 0.5 --early-stopping 3";
    let batches = "--lr 0.01 --epochs 20 --batch-size 7 --standardize both --class-weight balanced";
    assert_same_models(
        &data,
        &[
            &format!("{trajectory} {validation}"),
            &format!("{batches} {validation}"),
        ],
    );
}

#[test]
fn any_number_of_processes_writes_the_same_converged_model() {
    assert_same_models(
        &Data::new(false),
        &[
            "--optimizer newton --l2 0.01 --standardize both --class-weight balanced",
            "--optimizer lbfgs --l2 auto --cv 3",
        ],
    );
}

/// Processes share the rows of tall data.
#[test]
fn any_number_of_processes_writes_the_same_model_of_tall_data() {
    let data = Data::tall();
    let validation = data.validation().join(" ");
    assert_same_models(
        &data,
        &[
            "--optimizer newton --l2 0.01 --standardize both --class-weight balanced",
            "--optimizer lbfgs --l2 auto --cv 3",
            &format!("--optimizer newton --l2 auto {validation}"),
            &format!("--lr 0.1 --epochs 20 --momentum 0.5 --early-stopping 3 {validation}"),
            "--lr auto --epochs 3 --batch-size 100 --standardize both --label-smoothing 0.1",
        ],
    );
}

/// Runs flowreg-fit with these arguments on 1, 2 and 4 processes, which must write the same model.
fn assert_same_models_of(arguments: &[String], options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = None;
    for processes in [1, 2, 4] {
        let out = dir.path().join(processes.to_string());
        let mut command = mpirun(processes);
        command.arg(FIT).args(arguments).args(words(options));
        let output = run(command.arg("--no-report").arg("--out").arg(&out));
        assert!(output.status.success(), "{options}: {}", stderr(&output));
        let model = std::fs::read(out.join("model.safetensors")).unwrap();
        let expected = expected.get_or_insert_with(|| model.clone());
        assert!(&model == expected, "{processes} processes, {options}");
    }
}

#[test]
fn any_number_of_processes_writes_the_same_model_of_the_demo() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for options in ["", "--optimizer newton --l2 0.1"] {
        assert_same_models_of(&["--demo".to_string()], options);
    }
}

/// Flowers102 at 32 x 32: the 1020 rows of 3072 features of the training split, and the 6149 of the test
/// split.
#[test]
fn any_number_of_processes_writes_the_same_model_of_flowers102() {
    let Some(shared) = common::shared("Flowers102 on several processes") else {
        return;
    };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let dataset = dir.path().join("flowers32");
    let mut prep = Command::new(env!("CARGO_BIN_EXE_flowreg-prep"));
    prep.arg("flowers102")
        .arg("--root")
        .arg(shared.join("flowers102-64px"));
    let output = run(prep.args(["--size", "32", "--out"]).arg(&dataset));
    assert!(output.status.success(), "{}", stderr(&output));
    let arguments = [dataset.display().to_string()];
    for options in [
        "--recipe softmax-fast --epochs 20",
        "--optimizer newton --l2 0.1",
        "--optimizer lbfgs --l2 0.1 --val-split val",
        // The processes share the rows.
        "--train-split test --eval-split val --lr 1e-4 --epochs 3",
        "--train-split test --eval-split val --optimizer newton --l2 1 --tolerance 1e-2",
    ] {
        assert_same_models_of(&arguments, options);
    }
}

/// The commands of docs/guides/clusters.md, on the data of the demo.
#[test]
fn the_commands_of_the_cluster_page_work() {
    if !is_open_mpi() {
        return common::skipped("the commands of docs/guides/clusters.md: Open MPI's mpirun");
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let demo = run(Command::new(FIT)
        .current_dir(dir.path())
        .args(words("--demo --out demo")));
    assert!(demo.status.success(), "{}", stderr(&demo));
    std::fs::rename(dir.path().join("demo/dataset"), dir.path().join("flowers")).unwrap();
    let programs = Path::new(FIT).parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let page = include_str!("../docs/guides/clusters.md");
    let mut blocks = 0;
    for block in page.split("```sh\n").skip(1) {
        blocks += 1;
        let before = &page[..page.find(block).unwrap()];
        if before
            .trim_end_matches("```sh\n")
            .trim_end()
            .ends_with("-->")
        {
            continue;
        }
        let commands = block.split("```").next().unwrap();
        let mut shell = Command::new("sh");
        allow_any_number(&mut shell);
        shell
            .current_dir(dir.path())
            .env("PATH", &path)
            .stdin(Stdio::null());
        let output = run(shell.args(["-e", "-c", commands]));
        assert!(output.status.success(), "{commands}: {}", stderr(&output));
    }
    assert!(blocks >= 6, "{blocks}");
}

/// A process that is stopped ends the others after --timeout.
#[test]
fn a_process_that_does_not_answer_ends_all_after_the_timeout() {
    if !is_open_mpi() {
        return common::skipped("a stopped process: children of Open MPI's launcher");
    }
    let data = Data::tall();
    let mut command = mpirun(2);
    command.arg(FIT).args(data.arguments("run"));
    command.args(words("--epochs 1000000 --checkpoint-every 10 --timeout 3s"));
    let mut child = start(&mut command);
    assert!(appears(&data.path("run.checkpoint"), &mut child));
    let victims = children(child.id());
    assert_eq!(victims.len(), 2);
    signal(victims[1], "-STOP");
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(30) {
            signal(victims[0], "-KILL");
            signal(victims[1], "-KILL");
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(victims[1], "-KILL");
    let output = bounded(child);
    let text = stderr(&output);
    let lines = own_lines(&text);
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains("--timeout: found process"), "{text}");
    assert_eq!(output.status.code(), Some(69), "{text}");
}

/// With these options 1, 2, 3, 4 and 8 processes write the same bytes. (Of MPICH, whose processes spin while
/// they wait, at most 4, which the two cores of a test machine bear.)
fn assert_same_models(data: &Data, options: &[&str]) {
    for (i, options) in options.iter().enumerate() {
        let words = words(options);
        let of_one = data.fit(1, &format!("of_one{i}"), &words);
        let most = if is_open_mpi() { 8 } else { 4 };
        for processes in [2, 3, 4, 8].into_iter().filter(|&p| p <= most) {
            let found = data.fit(processes, &format!("run{i}_{processes}"), &words);
            assert!(found == of_one, "{processes} processes, {options}");
        }
    }
}

#[test]
fn messages_by_tcp_change_no_bit() {
    if !is_open_mpi() {
        return common::skipped("messages by TCP: an option of Open MPI");
    }
    let data = Data::new(false);
    let options = words("--lr 0.0005 --epochs 10");
    let expected = data.fit(2, "shared_memory", &options);
    let mut command = mpirun(2);
    command.args(words(
        "--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include lo",
    ));
    let output = run(command.arg(FIT).args(data.arguments("tcp")).args(&options));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(data.model("tcp") == expected);
}

/// Whether the launcher is Open MPI's.
fn is_open_mpi() -> bool {
    let version = Command::new(mpirun(1).get_program())
        .arg("--version")
        .output();
    String::from_utf8_lossy(&version.unwrap().stdout).contains("Open MPI")
}

/// The lines that flowreg-fit itself printed.
fn own_lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("flowreg-fit: "))
        .collect()
}

/// The run ends with this code, one line that contains `part`, and no output.
fn assert_refused(data: &Data, output: &Output, code: i32, part: &str) {
    let text = stderr(output);
    let lines = own_lines(&text);
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains(part), "{text}");
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(data.outputs(), [""; 0], "{text}");
}

#[test]
fn options_that_several_processes_cannot_use_are_refused_with_one_message() {
    let data = Data::new(true);
    for (processes, options, part) in [
        (
            2,
            "--optimizer newton --l2 1 --engine primal",
            "primal for 60 rows",
        ),
        (2, "--engine primal", "--engine: found primal"),
        (64, "", "at most 32"),
    ] {
        let mut command = mpirun(processes);
        let command = command
            .arg(FIT)
            .args(data.arguments("run"))
            .args(words(options));
        assert_refused(&data, &run(command), 64, part);
    }
}

/// Runs flowreg-fit in two processes, in the folder of the data, with these last arguments. `second`
/// has those of the second process, and after `; cd ` its folder.
fn two_processes(data: &Data, first: &str, second: &str) -> Output {
    let x = data.path("train.x.npy").display().to_string();
    two_processes_with(data, &x, first, second)
}

/// [`two_processes`] with these features.
fn two_processes_with(data: &Data, x: &str, first: &str, second: &str) -> Output {
    let mut arguments = data.arguments("run");
    arguments[1] = x.to_string();
    let (second, folder) = second.split_once("; cd ").unwrap_or((second, "."));
    let script = format!(
        "if [ \"${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}\" = 1 ]; then cd {folder}; \
         exec \"$0\" \"$@\" {second}; else exec \"$0\" \"$@\" {first}; fi"
    );
    let mut command = mpirun(2);
    command.current_dir(data.dir.path());
    run(command.args(["sh", "-c", &script, FIT]).args(arguments))
}

#[test]
fn processes_with_other_options_or_labels_are_refused() {
    let data = Data::new(true);
    let output = two_processes(&data, "--epochs 5", "--epochs 6");
    assert_refused(&data, &output, 64, "other options in process 1 than");
    // The number of threads is no other work.
    let output = two_processes(&data, "--threads 1 --epochs 2", "--threads 2 --epochs 2");
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::remove_dir_all(data.path("run")).unwrap();
    // The same options, but each process finds another file.
    let other = data.path("train.other");
    std::fs::create_dir(&other).unwrap();
    for (folder, first) in [(data.dir.path(), 2), (&other, 3)] {
        let weights = format!("{first}\n{}", "1\n".repeat(59));
        std::fs::write(folder.join("train.weights"), weights).unwrap();
    }
    let weights = "--sample-weight train.weights";
    let in_other = format!("{weights}; cd {}", other.display());
    let output = two_processes(&data, weights, &in_other);
    assert_refused(&data, &output, 64, "other weights in process 1 than");
    // Other features, with the same labels.
    for (folder, first) in [(data.dir.path(), 1.0), (&other, 2.0)] {
        let mut x = vec![0.5; 60 * 2000];
        x[0] = first;
        std::fs::write(folder.join("train.own.npy"), npy::f32_file(&[60, 2000], &x)).unwrap();
    }
    let output = two_processes_with(
        &data,
        "train.own.npy",
        "",
        &format!("; cd {}", other.display()),
    );
    assert_refused(
        &data,
        &output,
        64,
        "other features or labels in process 1 than",
    );
}

#[test]
fn an_error_of_one_process_ends_all_with_its_message() {
    let data = Data::new(true);
    let output = two_processes(&data, "", "--class-weight nowhere.txt");
    assert_refused(&data, &output, 74, "nowhere.txt");
    assert!(stderr(&output).contains("(in process 1 of 2, on "));
}

/// Two processes of a launcher that are one each for the library would write the same output.
#[test]
fn the_launcher_of_another_library_is_refused() {
    let data = Data::new(true);
    // mpirun of another library, and srun without MPI.
    for variable in ["PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let mut command = Command::new(FIT);
        command.args(data.arguments("run")).env(variable, "2");
        let output = run(&mut command);
        assert_refused(&data, &output, 64, "2 processes of the launcher, 1 of");
        assert!(stderr(&output).contains("srun --mpi=pmix"));
    }
}

/// The checkpoint of several processes is not that of a run without mpirun, which says so.
#[test]
fn a_checkpoint_of_several_processes_asks_for_mpirun() {
    if !is_open_mpi() {
        return common::skipped("kills of processes: children of Open MPI's launcher");
    }
    let data = Data::new(false);
    for options in [
        "--lr 0.0005 --epochs 100000",
        "--optimizer lbfgs --l2 auto --cv 20",
    ] {
        let mut command = mpirun(2);
        command
            .arg(FIT)
            .args(data.arguments("run"))
            .args(words(options));
        let mut child = start(command.args(words("--checkpoint-every 1")));
        assert!(appears(&data.path("run.checkpoint"), &mut child));
        for process in children(child.id()) {
            kill(process);
        }
        ends(child);
        let mut alone = Command::new(FIT);
        alone.args(data.arguments("run")).args(words(options));
        let output = run(alone.args(words("--checkpoint-every 1 --resume")));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(65), "{text}");
        assert!(text.contains("mpirun -n 1"), "{text}");
        std::fs::remove_file(data.path("run.checkpoint")).unwrap();
    }
}

/// The processes of flowreg-fit that a launcher runs.
fn children(launcher: u32) -> Vec<u32> {
    let of_entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        let parent: u32 = rest.split(' ').nth(1)?.parse().ok()?;
        (parent == launcher && name.ends_with("flowreg-fit")).then_some(pid)
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(of_entry)
        .collect()
}

fn kill(pid: u32) {
    signal(pid, "-9");
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    status.unwrap();
}

/// Whether the launcher, whose processes have ended, ends with success. That of Open MPI 4.1 may wait
/// for ever for itself (once in 44 kills, with all processes dead); then it is killed.
fn ends(mut launcher: Child) -> bool {
    let began = Instant::now();
    while launcher.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = launcher.kill();
    bounded(launcher).status.success()
}

/// Waits until the file exists; false if the process ended before.
fn appears(path: &Path, child: &mut Child) -> bool {
    let began = Instant::now();
    while !path.exists() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// A killed process ends the others; the same command with --resume, on another number of
/// processes, writes the bytes of a run that nothing disturbed.
#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let sgd = "--lr 0.0005 --epochs 30000 --checkpoint-every 300 --momentum 0.9";
    assert_kills_change_nothing(&Data::new(false), sgd, 20, 300);
}

#[test]
fn a_killed_converged_fit_resumes_to_the_same_bytes() {
    let path = "--optimizer lbfgs --l2 auto --cv 5 --standardize both --tolerance 1e-9 --checkpoint-every 1";
    assert_kills_change_nothing(&Data::new(false), path, 5, 30);
}

#[test]
fn a_killed_fit_of_tall_data_resumes_to_the_same_bytes() {
    let data = Data::tall();
    let path = "--optimizer lbfgs --l2 auto --cv 5 --tolerance 1e-9 --checkpoint-every 1";
    assert_kills_change_nothing(&data, path, 4, 200);
    let batches = "--lr 0.1 --epochs 60 --batch-size 100 --momentum 0.9 --checkpoint-every 2";
    assert_kills_change_nothing(&data, batches, 3, 200);
}

/// Kills a process of the fit with these options up to `longest` milliseconds after its first
/// checkpoint, and resumes it, until `wanted` kills are done.
fn assert_kills_change_nothing(data: &Data, options: &str, wanted: usize, longest: usize) {
    if !is_open_mpi() {
        return common::skipped("kills of processes: children of Open MPI's launcher");
    }
    let options = words(options);
    let expected = data.fit(2, "undisturbed", &options);
    std::fs::remove_dir_all(data.path("undisturbed")).unwrap();
    let mut uniform = common::uniform(11);
    let mut random = |below: usize| ((uniform() * below as f32) as usize).min(below - 1);
    let mut kills = 0;
    while kills < wanted {
        let out = "run";
        let checkpoint = data.path("run.checkpoint");
        let _ = std::fs::remove_dir_all(data.path(out));
        let mut killed = false;
        loop {
            let processes = [1, 2, 4][random(3)];
            let mut command = mpirun(processes);
            command.arg(FIT).args(data.arguments(out)).args(&options);
            let mut child = start(command.arg("--resume"));
            if kills == wanted || (!killed && !appears(&checkpoint, &mut child)) {
                let output = bounded(child);
                assert!(output.status.success(), "{}", stderr(&output));
                break;
            }
            std::thread::sleep(Duration::from_millis(random(longest) as u64));
            let victims = children(child.id());
            if victims.is_empty() {
                // It is about to end, or about to begin.
                let output = bounded(child);
                assert!(output.status.success(), "{}", stderr(&output));
                break;
            }
            kill(victims[random(victims.len())]);
            for process in victims {
                assert!(
                    !is_running(process),
                    "process {process} outlived another one"
                );
            }
            let ended = ends(child);
            if ended || data.path(out).exists() {
                // It was killed after its end.
                break;
            }
            killed = true;
            kills += 1;
        }
        assert!(data.model(out) == expected, "after {kills} kills");
        let _ = std::fs::remove_file(checkpoint);
    }
}

/// Whether a process still exists after 20 seconds and is no zombie. (The launcher takes two to end the
/// others.)
fn is_running(pid: u32) -> bool {
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.split_once(") ").map(|(_, rest)| rest.starts_with('Z'))
    };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if state() != Some(false) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
