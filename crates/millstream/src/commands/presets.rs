//! `millstream presets`.

use crate::Outcome;
use crate::fault::UserFault;
use crate::run_file::PRESETS;

/// Which preset.
#[derive(clap::Args)]
pub struct Args {
    /// Print this one as a run file.
    name: Option<String>,
}

/// Lists presets, or prints one.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let text = match args.name {
        None => PRESETS.iter().map(|preset| format!("{:<26}{}\n", preset.name, preset.purpose())).collect(),
        Some(name) => match PRESETS.iter().find(|preset| preset.name == name) {
            Some(preset) => preset.text.to_owned(),
            None => {
                let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                let hint = format!("the presets are {}", names.join(", "));
                return Err(UserFault::new(format!("there is no preset `{name}`")).hint(hint).into());
            }
        },
    };
    super::print(&text)?;
    Ok(Outcome::Done)
}
