//! Code shared by the binaries: arguments, exit codes, printing, progress and forecasts.

pub mod fit;
mod measure;
pub mod predict;
pub mod prep;
pub mod ranks;
pub mod report;
pub mod run_files;
pub mod signals;
mod values;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use clap::{Arg, ArgAction, ArgMatches, Command, Parser, value_parser};
use clap_complete::Shell;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::io::mmap;

pub use self::measure::{PeakMemory, Stopwatch};
#[cfg(feature = "mpi")]
pub use self::values::time;
pub use self::values::{delimiter, every, finite, learning_rate};

/// Exit code for an invalid command line.
const USAGE: u8 = 64;
/// Exit code for output that could not be written.
const OUTPUT: u8 = 74;
/// Exit code for a bug: a panic.
const BUG: u8 = 70;
/// Predicted time, in seconds, above which a forecast is printed.
pub const MIN_FORECAST_SECONDS: f64 = 10.0;

/// The output mode of a binary; the arguments set it once.
#[derive(Clone, Copy, PartialEq)]
enum OutputMode {
    Lines,
    Quiet,
    Json,
}

/// The running program: its name, output mode and options.
static PROGRAM: RwLock<Program> = RwLock::new(Program {
    name: "flowreg",
    mode: OutputMode::Lines,
    options: Vec::new(),
    muted: false,
});

struct Program {
    /// Prefix of its lines on stderr.
    name: &'static str,
    mode: OutputMode,
    /// Its long options, without dashes.
    options: Vec<String>,
    /// Whether errors alone are printed.
    muted: bool,
}

/// Parameters of the library whose options have another name, with that name.
const OPTION_NAMES: [(&str, &str); 8] = [
    ("backend", "gemm"),
    ("checkpoints", "checkpoint-every"),
    ("coordinates", "save-coordinates"),
    ("emit_coordinates", "save-trajectory"),
    ("folds", "cv"),
    ("penalties", "l2-path"),
    ("refit_all", "refit"),
    ("validation", "val-split"),
];

/// The states of standard output and standard error.
static STDOUT: Mutex<Stream> = Mutex::new(Stream::Open);
static STDERR: Mutex<Stream> = Mutex::new(Stream::Open);

/// The state of an output stream.
enum Stream {
    Open,
    /// The reader closed it.
    Closed,
    /// A line could not be written.
    Failed(io::Error),
}

impl Stream {
    /// Writes whole lines, unless an earlier write failed.
    fn write(stream: &'static Mutex<Stream>, mut to: impl Write, lines: &str) {
        let mut state = lock(stream);
        if let Stream::Open = *state {
            let written = to.write_all(lines.as_bytes());
            *state = match written.and_then(|()| to.flush()) {
                Ok(()) => Stream::Open,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Stream::Closed,
                Err(error) => Stream::Failed(error),
            };
        }
    }
}

fn lock(stream: &'static Mutex<Stream>) -> MutexGuard<'static, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether all output is JSON.
pub fn is_json() -> bool {
    mode() == OutputMode::Json
}

fn program() -> RwLockReadGuard<'static, Program> {
    PROGRAM.read().unwrap_or_else(PoisonError::into_inner)
}

fn set_program(name: &'static str, mode: OutputMode, options: Vec<String>) {
    let mut program = PROGRAM.write().unwrap_or_else(PoisonError::into_inner);
    *program = Program {
        name,
        mode,
        options,
        muted: false,
    };
}

/// From now on prints errors alone: another process of the same fit prints the rest.
pub fn mute() {
    let mut program = PROGRAM.write().unwrap_or_else(PoisonError::into_inner);
    program.muted = true;
}

fn is_muted() -> bool {
    program().muted
}

/// Replaces the parameters in a message of the library (`` `l2` ``) by the program's options
/// (`--l2`).
fn with_options(message: &str) -> String {
    let program = program();
    let (mut text, mut rest) = (String::new(), message);
    while let Some((before, after)) = rest.split_once('`') {
        let option = after.split_once('`').and_then(|(name, behind)| {
            let own = OPTION_NAMES.iter().find(|(known, _)| *known == name);
            let option = own.map_or_else(|| name.replace('_', "-"), |(_, own)| (*own).to_string());
            program
                .options
                .contains(&option)
                .then_some((option, behind))
        });
        text += before;
        match option {
            Some((option, behind)) => {
                text += &format!("--{option}");
                rest = behind;
            }
            None => {
                text.push('`');
                rest = after;
            }
        }
    }
    text + rest
}

fn mode() -> OutputMode {
    program().mode
}

/// Sets the handlers of the process, for the binaries: Ctrl-C and SIGTERM stop the work; a panic,
/// or the truncation of a mapped file, prints one line on stderr.
pub fn own_process() {
    std::panic::set_hook(Box::new(|panic| {
        print_error(&format!("bug: {}", in_one_line(&panic.to_string())), BUG);
    }));
    // The message is formatted in advance: a signal handler may not allocate.
    mmap::exit_on_truncation(|message| line_of_error(message, mmap::CUT_SHORT));
    if let Err(error) = signals::listen() {
        warn(error);
    }
}

/// Runs a program: parses the arguments (the first is the program's name), calls `run`, and turns
/// an error into one line on stderr. Returns the exit code.
///
/// Every program also has the options `--quiet`, `--json-logs`, `--completions SHELL` and `--man`.
/// The process is not changed: [`own_process`] sets the handlers.
pub fn main<A: Parser>(
    name: &'static str,
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(A) -> Result<()>,
) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    // Invalid arguments are reported as JSON, too.
    let is_json = args.iter().any(|argument| argument == "--json-logs");
    let mode = if is_json {
        OutputMode::Json
    } else {
        OutputMode::Lines
    };
    set_program(name, mode, Vec::new());
    for stream in [&STDOUT, &STDERR] {
        *lock(stream) = Stream::Open;
    }
    let code = exit_code(parse::<A>(name, args), run);
    ranks::end(code);
    code
}

/// Calls `run` with the parsed arguments, prints its error, and returns the exit code.
fn exit_code<A>(
    parsed: std::result::Result<Option<A>, clap::Error>,
    run: impl FnOnce(A) -> Result<()>,
) -> u8 {
    let result = match parsed {
        Ok(Some(args)) => match catch_unwind(AssertUnwindSafe(|| run(args))) {
            Ok(result) => result.map_err(|error| {
                ranks::let_others_report(Some(&error));
                match (&error, signals::signal()) {
                    (Error::Interrupted { kept }, Some(signal)) => {
                        (format!("stopped by signal {signal}; {kept}"), 128 + signal)
                    }
                    _ => (error.to_string() + &ranks::place(), error.exit_code()),
                }
            }),
            Err(_) => return BUG, // The panic hook printed it.
        },
        Ok(None) => Ok(()),
        Err(error) if error.use_stderr() => {
            ranks::let_others_report(None);
            Err((first_paragraph(&error.to_string()), USAGE))
        }
        Err(help) => {
            print(help.to_string().trim_end());
            Ok(())
        }
    };
    let printed = || match (&*lock(&STDOUT), &*lock(&STDERR)) {
        (Stream::Failed(error), _) => Err((not_written(error).to_string(), OUTPUT)),
        (_, Stream::Failed(_)) => Err(("standard error: cannot write".to_string(), OUTPUT)),
        _ => Ok(()),
    };
    match result.and_then(|()| printed()) {
        Ok(()) => 0,
        Err((message, code)) => {
            print_error(&message, code);
            code
        }
    }
}

/// Prints an error as one line on stderr.
pub fn print_error(message: &str, code: u8) {
    note(line_of_error(message, code));
}

fn line_of_error(message: &str, code: u8) -> String {
    let message = with_options(message);
    let message = escaped(&message);
    line(
        &message,
        &json!({"event": "error", "message": message, "code": code}),
    )
}

/// Prints a warning as one line on stderr: `flowreg-fit: MESSAGE`, or with `--json-logs`
/// `{"event":"warning","message":MESSAGE}`. `--quiet` does not silence it.
pub fn warn(message: impl std::fmt::Display) {
    if is_muted() {
        return;
    }
    let message = escaped(&with_options(&message.to_string())).into_owned();
    let line = line(&message, &json!({"event": "warning", "message": message}));
    note(line);
}

/// A line for stderr: the program's name and the message, or with `--json-logs` the event.
fn line(message: &str, event: &Value) -> String {
    match mode() {
        OutputMode::Json => json_line(event),
        OutputMode::Lines | OutputMode::Quiet => {
            format!("{}: {message}", program().name)
        }
    }
}

/// Parses the arguments. Returns `None` after it printed completions or the man page.
fn parse<A: Parser>(
    name: &'static str,
    args: Vec<OsString>,
) -> std::result::Result<Option<A>, clap::Error> {
    let mut command = with_common_arguments(A::command());
    let requested = (command.clone().subcommand_required(false)).try_get_matches_from(args.clone());
    if let Ok(matches) = &requested
        && print_completions_or_man(&mut command, name, matches)
    {
        return Ok(None);
    }
    let options = options_of(&command);
    let matches = command.try_get_matches_from(args)?;
    let mode = match (matches.get_flag("quiet"), matches.get_flag("json_logs")) {
        (true, _) => OutputMode::Quiet,
        (_, true) => OutputMode::Json,
        _ => OutputMode::Lines,
    };
    set_program(name, mode, options);
    A::from_arg_matches(&matches).map(Some)
}

/// The long options of a command and its subcommands.
fn options_of(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long());
    let own = own.map(str::to_string);
    let below = command.get_subcommands().flat_map(options_of);
    own.chain(below).collect()
}

fn with_common_arguments(command: Command) -> Command {
    let flag = |id: &'static str, long: &'static str, help: &'static str| {
        let arg = Arg::new(id).long(long).action(ArgAction::SetTrue);
        arg.help(help).help_heading("Output")
    };
    let quiet = flag("quiet", "quiet", "Print only warnings, errors and results").global(true);
    let json_logs = flag(
        "json_logs",
        "json-logs",
        "Print everything as lines of JSON, on stderr too",
    );
    let completions = Arg::new("completions")
        .long("completions")
        .value_name("SHELL");
    command
        .arg(quiet)
        .arg(json_logs.conflicts_with("quiet").global(true))
        .arg(
            completions
                .value_parser(value_parser!(Shell))
                .exclusive(true)
                .help("Print the completions of a shell")
                .help_heading("Output"),
        )
        .arg(flag("man", "man", "Print the man page").exclusive(true))
}

fn print_completions_or_man(command: &mut Command, name: &str, matches: &ArgMatches) -> bool {
    let mut text = Vec::new();
    if let Some(shell) = matches.get_one::<Shell>("completions") {
        clap_complete::generate(*shell, command, name, &mut text);
    } else if matches.get_flag("man") {
        // The page of the whole command, then those of its subcommands.
        let page =
            |command: Command, text: &mut Vec<u8>| clap_mangen::Man::new(command).render(text);
        command.build();
        page(command.clone(), &mut text).expect("memory takes all bytes");
        for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
            page(subcommand.clone(), &mut text).expect("memory takes all bytes");
        }
    } else {
        return false;
    }
    print(String::from_utf8_lossy(&text).trim_end());
    true
}

/// Prints a line of the results on standard output.
///
/// If the reader closes the pipe, later lines are dropped and the work continues. After a failed
/// write (a full disk) no later line is written, and [`main`] returns exit code 74 at the end.
pub fn print(line: impl std::fmt::Display) {
    print_text(&format!("{line}\n"));
}

/// Prints whole lines like [`print`], in one write.
pub fn print_text(lines: &str) {
    if is_muted() {
        return;
    }
    Stream::write(&STDOUT, io::stdout().lock(), lines);
}

/// Prints a value as one line of JSON on standard output, without control characters.
pub fn print_json(value: &Value) {
    print(json_line(value));
}

/// One line of JSON with all unprintable characters escaped. serde_json escapes only those below
/// U+0020; the others occur in strings alone, where `\u` is valid.
fn json_line(value: &Value) -> String {
    let line = value.to_string();
    if !line.contains(is_unprintable) {
        return line;
    }
    let escape = |c: char| {
        if is_unprintable(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    };
    line.chars().map(escape).collect()
}

/// Prints a line on standard error. After a failed write [`main`] returns exit code 74.
pub fn note(line: impl std::fmt::Display) {
    Stream::write(&STDERR, io::stderr().lock(), &format!("{line}\n"));
}

/// Whether standard output is open: false once its reader closed it.
///
/// # Errors
/// [`Error::Io`] after a failed write.
pub fn stdout_is_open() -> Result<bool> {
    match &*lock(&STDOUT) {
        Stream::Open => Ok(true),
        Stream::Closed => Ok(false),
        Stream::Failed(error) => Err(not_written(error)),
    }
}

fn not_written(error: &io::Error) -> Error {
    let error = io::Error::new(error.kind(), error.to_string());
    Error::io("standard output".as_ref(), "write")(error)
}

/// Whether a terminal interprets the character: control characters, and those that change the
/// direction of writing.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text with the characters escaped (`\x1b`) that a terminal would interpret.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match c {
        '\n' => "\\n".to_string(),
        '\t' => "\\t".to_string(),
        '\r' => "\\r".to_string(),
        c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
        c if is_unprintable(c) => format!("\\u{{{:x}}}", u32::from(c)),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Prints a line about progress, unless `--quiet`.
pub fn info(line: impl std::fmt::Display) {
    let mode = mode();
    if mode == OutputMode::Quiet {
        return;
    }
    let message = with_options(&line.to_string());
    let message = escaped(&message);
    match mode {
        OutputMode::Lines | OutputMode::Quiet => print(message),
        OutputMode::Json => {
            print_json(&json!({"event": "message", "message": message}));
        }
    }
}

/// With `--json-logs`, prints an event with its numbers. Returns whether it was printed.
pub fn event(name: &str, data: &impl serde::Serialize) -> bool {
    if mode() != OutputMode::Json {
        return false;
    }
    let mut line = serde_json::Map::from_iter([("event".to_string(), json!(name))]);
    match serde_json::to_value(data) {
        Ok(Value::Object(fields)) => line.extend(fields),
        Ok(value) => drop(line.insert("value".to_string(), value)),
        Err(_) => {}
    }
    print_json(&Value::Object(line));
    true
}

/// Prints the forecast of work that takes more than ten seconds: time, memory and disk.
pub fn forecast(seconds: f64, memory: f64, disk: f64) {
    if seconds < MIN_FORECAST_SECONDS {
        return;
    }
    let data = json!({"seconds": seconds, "memory_bytes": memory, "disk_bytes": disk});
    if !event("forecast", &data) {
        let disk = if disk > 0.0 {
            format!(", {} on the disk", bytes(disk))
        } else {
            String::new()
        };
        let time = duration(seconds);
        info(format_args!(
            "  forecast: about {time}, {} of memory{disk}",
            bytes(memory)
        ));
    }
}

/// A number with its noun.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A number of bytes, formatted for reading.
pub fn bytes(count: f64) -> String {
    match count {
        b if b < 1e9 => format!("{:.0} MB", (b / 1e6).ceil()),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// A progress bar with rate and time left. It is hidden unless stderr is a terminal, and with
/// `--quiet` or `--json-logs`.
pub fn progress(steps: u64, what: &'static str) -> ProgressBar {
    bar(
        steps,
        what,
        "{prefix} {bar:32} {pos}/{len} {per_sec}, {eta} left {msg}",
    )
}

/// A progress bar like that of [`progress`], in bytes.
pub fn progress_bytes(bytes: u64, what: &'static str) -> ProgressBar {
    let template = "{prefix} {bar:32} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left {msg}";
    bar(bytes, what, template)
}

fn bar(steps: u64, what: &'static str, template: &str) -> ProgressBar {
    if mode() != OutputMode::Lines || is_muted() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(steps).with_style(style).with_prefix(what)
}

/// The first paragraph of clap's message in one line, without the reference to `--help`.
fn first_paragraph(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or(message);
    in_one_line(paragraph.trim_start_matches("error: "))
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_options_of_the_program() {
        set_program(
            "flowreg-fit",
            OutputMode::Lines,
            ["l2", "cv", "val-split", "sample-weight"]
                .map(String::from)
                .to_vec(),
        );
        for (message, expected) in [
            ("`l2`: found -1", "--l2: found -1"),
            ("give `validation` or `folds`", "give --val-split or --cv"),
            ("`sample_weight``l2`", "--sample-weight--l2"),
            (
                "all with `sample_weight`, so",
                "all with --sample-weight, so",
            ),
            ("`lenient` reads it", "`lenient` reads it"),
            ("a`b/l2`c `l2", "a`b/l2`c `l2"),
            ("", ""),
        ] {
            assert_eq!(with_options(message), expected);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("rose.jpg"), "rose.jpg");
        assert_eq!(escaped("a\u{202e}"), "a\\u{202e}");
        assert_eq!(json_line(&json!("\u{9b}é\x1b")), r#""\u009bé\u001b""#);
        assert_eq!(escaped("a\x1b[31m\n\u{85}é"), "a\\x1b[31m\\n\\x85é");
    }
}
