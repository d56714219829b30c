//! `millstream convert`.

use super::weights::WeightsArg;
use crate::fault::{UserFault, users};
use crate::{Outcome, model_folder, units};
use checkpoint::{Conversion, Converted, Dtype, Folder, GgufWritten, Head};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// What to write anew, and how.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a run, or of a model (config.json, safetensors).
    folder: PathBuf,
    /// Where the converted model goes; must be new, or an empty folder.
    out: PathBuf,
    /// What is written.
    #[arg(long, value_name = "FORM", default_value = "folder")]
    to: Form,
    /// How weights are stored; without it, as they are. Blocks (q8, q4) are for GGUF files.
    #[arg(long)]
    dtype: Option<WeightsArg>,
    /// Most bytes of a weight file, such as 2GB or 500MiB; a larger tensor has a file of its own. Without it, 50GB.
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<String>,
    /// Whether the head has a matrix of its own; without it, as it is.
    #[arg(long)]
    head: Option<HeadArg>,
}

/// Forms of a model on disk.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A folder with config.json and safetensors, as transformers reads it.
    Folder,
    /// One file with the tokenizer in it, as llama.cpp reads it.
    Gguf,
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
    match args.to {
        Form::Folder => write_folder(&args)?,
        Form::Gguf => write_gguf(&args)?,
    }
    Ok(Outcome::Done)
}

fn write_folder(args: &Args) -> anyhow::Result<()> {
    let dtype = match args.dtype {
        None => None,
        Some(WeightsArg::F32) => Some(Dtype::F32),
        Some(WeightsArg::F16) => Some(Dtype::F16),
        Some(WeightsArg::Bf16) => Some(Dtype::Bf16),
        Some(WeightsArg::Q8 | WeightsArg::Q4) => {
            let fault =
                UserFault::new("--dtype q8 and q4 pack weights in blocks, which safetensors folders do not have");
            return Err(fault.hint("write a GGUF file: --to gguf").into());
        }
    };
    let head = args.head.map(|head| match head {
        HeadArg::Tied => Head::Tied,
        HeadArg::Untied => Head::Untied,
    });
    let shard_size = args.shard_size.as_deref().unwrap_or("50GB");
    let shard_bytes = units::parse_bytes(shard_size).ok_or_else(|| {
        let message = format!("--shard-size is {shard_size:?}, but must be a number of bytes with its unit");
        UserFault::new(message).hint("write it like 2GB, 500MiB or 100000000B")
    })?;
    let folder = checkpoint::read_folder(&model_folder::find(&args.folder)?).map_err(users)?;
    let bar = bar(&folder);
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
    Ok(())
}

fn write_gguf(args: &Args) -> anyhow::Result<()> {
    if args.shard_size.is_some() || args.head.is_some() {
        return Err(UserFault::new("--shard-size and --head are for folders, not for --to gguf").into());
    }
    let folder = checkpoint::read_folder(&model_folder::find(&args.folder)?).map_err(users)?;
    let bar = bar(&folder);
    let format = args.dtype.map(Into::into);
    let written = checkpoint::write_gguf(&folder, &args.out, format, |weight| bar.inc(weight.n_elements() as u64));
    bar.finish_and_clear();
    let GgufWritten { n_tensors, n_parameters, format, n_bytes } = written.map_err(users)?;
    super::print(&format!(
        "{}: {} parameters in {n_tensors} tensors, matrices as {format}, {}{}\n",
        args.out.display(),
        units::count(n_parameters),
        units::bytes(n_bytes),
        if folder.tokenizer_path().is_some() { "" } else { "; no tokenizer" },
    ))?;
    Ok(())
}

fn bar(folder: &Folder) -> ProgressBar {
    let bar = ProgressBar::new(folder.architecture().n_parameters() as u64);
    let style = ProgressStyle::with_template("{bar:30} {percent} % of the parameters, {eta} left");
    bar.with_style(style.expect("invariant: the template is right"))
}
