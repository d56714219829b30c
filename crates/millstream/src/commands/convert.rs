//! `millstream convert`.

use crate::fault::{UserFault, users};
use crate::{Outcome, model_folder, units};
use checkpoint::{Conversion, Converted, Dtype, Head};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// What to write anew, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors).
    folder: PathBuf,
    /// Where the converted model goes; must be new or empty.
    out: PathBuf,
    /// How weights are stored; without it, as they are.
    #[arg(long)]
    dtype: Option<DtypeArg>,
    /// Most bytes of a weight file, such as 2GB or 500MiB; a larger tensor has a file of its own.
    #[arg(long, value_name = "SIZE", default_value = "50GB")]
    shard_size: String,
    /// Whether the head has a matrix of its own; without it, as it is.
    #[arg(long)]
    head: Option<HeadArg>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DtypeArg {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum HeadArg {
    /// The embedding's matrix; only where both are equal already.
    Tied,
    /// A matrix of its own; of a tied head, a copy of the embedding's.
    Untied,
}

/// Writes the model anew, whole or not at all.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let dtype = args.dtype.map(|dtype| match dtype {
        DtypeArg::F32 => Dtype::F32,
        DtypeArg::F16 => Dtype::F16,
        DtypeArg::Bf16 => Dtype::Bf16,
    });
    let head = args.head.map(|head| match head {
        HeadArg::Tied => Head::Tied,
        HeadArg::Untied => Head::Untied,
    });
    let shard_bytes = units::parse_bytes(&args.shard_size).ok_or_else(|| {
        let message = format!("--shard-size is {:?}, but must be a number of bytes with its unit", args.shard_size);
        UserFault::new(message).hint("write it like 2GB, 500MiB or 100000000B")
    })?;
    let folder = checkpoint::read_folder(&model_folder::find(&args.folder)?).map_err(users)?;
    let bar = ProgressBar::new(folder.architecture().n_parameters() as u64);
    let style = ProgressStyle::with_template("{bar:30} {percent} % of the parameters, {eta} left");
    bar.set_style(style.expect("invariant: the template is right"));
    let conversion = Conversion { dtype, shard_bytes: Some(shard_bytes), head };
    let converted = checkpoint::convert(&folder, &args.out, &conversion, |weight| bar.inc(weight.n_elements() as u64));
    bar.finish_and_clear();
    let Converted { dtype, n_parameters, n_rounded, n_files } = converted.map_err(users)?;
    let rounded = match n_rounded {
        0 => "every value is exact".to_owned(),
        n => format!("{} of the values were rounded to the nearest", units::percent(n as f64 / n_parameters as f64)),
    };
    super::print(&format!(
        "{}: {} parameters as {} in {n_files} {}, {}; {rounded}\n",
        args.out.display(),
        units::count(n_parameters),
        match dtype {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        },
        if n_files == 1 { "file" } else { "files" },
        units::bytes(n_parameters * dtype.n_bytes() as u64),
    ))?;
    Ok(Outcome::Done)
}
