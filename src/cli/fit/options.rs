//! Conversion of the arguments to options of the library.

use std::path::{Path, PathBuf};

use crate::cli::fit::args::Args;
use crate::cli::signals;
use crate::data::arrays;
use crate::design::plan::EngineChoice;
use crate::linalg::gemm::Backend;
use crate::{Checkpoints, Decay, Error, FitOptions, Init, Recipe, Result, Schedule};

/// The first given option that only SGD has.
pub(super) fn of_sgd(args: &Args) -> Option<&'static str> {
    let given = [
        ("--recipe", args.recipe.is_some()),
        ("--init", args.init.is_some()),
        ("--epochs", args.epochs.is_some()),
        ("--lr", args.lr.is_some()),
        ("--lr-schedule", args.lr_schedule != "constant"),
        ("--lr-warmup", args.lr_warmup != 0),
        ("--early-stopping", args.early_stopping.is_some()),
        ("--save-trajectory", args.save_trajectory),
        ("--save-coordinates", args.save_coordinates),
        ("--momentum", args.momentum.is_some()),
        ("--dampening", args.dampening.is_some()),
        ("--nesterov", args.nesterov),
        ("--weight-decay", args.weight_decay.is_some()),
        ("--batch-size", args.batch_size.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given);
    given.next().map(|(option, _)| option)
}

/// The file of the initial model, if one was given.
pub(super) fn init_file(args: &Args) -> Option<&Path> {
    let init = (args.init.as_deref()).filter(|init| !["torch", "zeros"].contains(init));
    init.map(Path::new)
}

/// The files and directories that a run reads.
pub(super) fn sources(args: &Args) -> Vec<PathBuf> {
    let arrays = [&args.x, &args.y, &args.x_val, &args.y_val];
    (arrays.into_iter().flatten().map(|path| arrays::file(path)))
        .chain(args.dataset.iter().cloned())
        .chain(args.weighting.files().map(Path::to_path_buf))
        .chain(init_file(args).map(Path::to_path_buf))
        .collect()
}

/// The checkpoint of the run; `None` without `--checkpoint-every` and `--resume`. An existing
/// checkpoint, which may hold days of work, is an error unless `--resume` or `--force` is given.
pub(super) fn checkpoints(args: &Args, out: &Path) -> Result<Option<Checkpoints>> {
    // `components` drops a final slash: the checkpoint is a sibling of the run.
    let mut path = out.components().collect::<PathBuf>().into_os_string();
    path.push(".checkpoint");
    let path = PathBuf::from(path);
    let wanted = args.resume || args.checkpoint_every.is_some();
    if !wanted {
        return Ok(None);
    }
    let checkpoints = Checkpoints {
        path,
        every: args.checkpoint_every,
        resume: args.resume,
    };
    checkpoints.refuse_foreign()?;
    if !args.resume && !args.force && checkpoints.path.exists() {
        let path = checkpoints.path;
        return Err(Error::Checkpoint { path });
    }
    Ok(Some(checkpoints))
}

/// The options of the recipe, replaced by those given, and the number of classes.
pub(super) fn fit_options(args: &Args) -> Result<(FitOptions, Option<usize>)> {
    let recipe = args.recipe.as_deref().map(Recipe::named).transpose()?;
    let mut options = recipe.map_or_else(FitOptions::default, Recipe::options);
    options.cancel = Some(signals::cancel());
    options.threads = args.threads;
    options.engine = match (EngineChoice::named(&args.engine)?, args.save_coordinates) {
        (EngineChoice::Primal, true) => {
            return Err(Error::Options {
                option: "--save-coordinates",
                found: "the primal engine".to_string(),
                expected: "--engine gram: only it has the coordinates A, s and b".to_string(),
            });
        }
        (_, true) => EngineChoice::Gram,
        (choice, false) => choice,
    };
    options.backend = Backend::named(&args.gemm)?;
    options.early_stopping = args.early_stopping;
    options.emit_coordinates = args.save_trajectory;
    let sgd = &mut options.sgd;
    sgd.lr = args.lr.unwrap_or(sgd.lr);
    sgd.schedule = schedule(args)?;
    sgd.epochs = args.epochs.unwrap_or(sgd.epochs);
    sgd.momentum = args.momentum.unwrap_or(sgd.momentum);
    sgd.dampening = args.dampening.unwrap_or(sgd.dampening);
    sgd.nesterov |= args.nesterov;
    sgd.weight_decay = args.weight_decay.unwrap_or(sgd.weight_decay);
    sgd.batch_size = args.batch_size.or(sgd.batch_size);
    sgd.seed = args.seed.unwrap_or(sgd.seed);
    sgd.check()?;
    options.init = match args.init.as_deref() {
        None | Some("torch") => Init::Torch { seed: sgd.seed },
        Some("zeros") => Init::Zeros,
        Some(file) => Init::File(PathBuf::from(file)),
    };
    let classes = args.classes.or(recipe.and_then(|recipe| recipe.classes));
    Ok((options, classes))
}

pub(super) fn schedule(args: &Args) -> Result<Schedule> {
    let decay = match args.lr_schedule.as_str() {
        "step" => Decay::Step {
            size: args.lr_step_size.unwrap_or(30),
            gamma: args.lr_gamma.unwrap_or(0.1),
        },
        other if args.lr_step_size.is_some() || args.lr_gamma.is_some() => {
            return Err(Error::Options {
                option: "--lr-step-size and --lr-gamma",
                found: format!("--lr-schedule {other}"),
                expected: "--lr-schedule step".to_string(),
            });
        }
        "cosine" => Decay::Cosine,
        _ => Decay::Constant,
    };
    Ok(Schedule {
        decay,
        warmup: args.lr_warmup,
    })
}
