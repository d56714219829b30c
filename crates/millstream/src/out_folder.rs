//! The folder of a run.

use crate::fault::UserFault;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Where a run puts its files. Until [`OutFolder::keep`], dropping it undoes what was made, so that a run that cannot
/// start leaves nothing behind.
#[derive(Debug)]
pub struct OutFolder {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Kept,
    /// The folder was empty or new: all in it is ours. `created` are folders to remove, innermost first.
    New {
        created: Vec<PathBuf>,
    },
}

impl OutFolder {
    /// A new folder, or an empty one that is there; without a path, the next free number under `runs`.
    ///
    /// # Errors
    /// The folder has something in it, is a file, or cannot be made or written to.
    pub fn create(path: Option<PathBuf>) -> Result<Self, UserFault> {
        match path {
            Some(path) => Self::at(path),
            None => Self::numbered(Path::new("runs")),
        }
    }

    /// The folder of a run that is to be continued; nothing in it is ever removed.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn existing(path: PathBuf) -> Result<Self, UserFault> {
        let folder = Self { path, state: State::Kept };
        folder.check_writable()?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run has started: from here on, everything stays.
    pub fn keep(&mut self) {
        self.state = State::Kept;
    }

    fn at(path: PathBuf) -> Result<Self, UserFault> {
        match fs::read_dir(&path) {
            Ok(mut entries) => match entries.next() {
                None => Self::started(path, Vec::new()),
                Some(_) => {
                    let message = format!("the output folder {} has something in it", path.display());
                    let fault = UserFault::new(message).hint("choose another with --out");
                    Err(match path.join("run.toml").is_file() {
                        true => fault.hint(format!("continue the run in it with --resume {}", path.display())),
                        false => fault,
                    })
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
                let created = missing.map(Path::to_path_buf).collect();
                fs::create_dir_all(&path).map_err(|error| cannot(&path, "made", &error))?;
                Self::started(path, created)
            }
            Err(error) => Err(cannot(&path, "used", &error)),
        }
    }

    /// The lowest number above all that are there. Two runs that start together get different ones.
    fn numbered(parent: &Path) -> Result<Self, UserFault> {
        let parent_created = !parent.exists();
        fs::create_dir_all(parent).map_err(|error| cannot(parent, "made", &error))?;
        let entries = fs::read_dir(parent).map_err(|error| cannot(parent, "read", &error))?;
        let taken = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        let mut number = taken.max().unwrap_or(0) + 1;
        loop {
            let path = parent.join(number.to_string());
            match fs::create_dir(&path) {
                Ok(()) => {
                    let mut created = vec![path.clone()];
                    created.extend(parent_created.then(|| parent.to_path_buf()));
                    return Self::started(path, created);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(cannot(&path, "made", &error)),
            }
        }
    }

    fn started(path: PathBuf, created: Vec<PathBuf>) -> Result<Self, UserFault> {
        let folder = Self { path, state: State::New { created } };
        folder.check_writable()?;
        Ok(folder)
    }

    fn check_writable(&self) -> Result<(), UserFault> {
        tempfile::tempfile_in(&self.path).map(drop).map_err(|error| cannot(&self.path, "written to", &error.kind()))
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        let State::New { created } = &self.state else { return };
        // Best effort: the error that led here is the one to show.
        let removed = fs::read_dir(&self.path).and_then(|entries| {
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
            created.iter().try_for_each(fs::remove_dir)
        });
        drop(removed);
    }
}

/// Writes a file whole or not at all: next to its place first, then moved there.
///
/// # Errors
/// The disk's.
pub fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    write_all_whole(&[(path, content)])
}

/// Writes several files whole, or none of them: all lie next to their places before the first is moved there.
///
/// # Errors
/// The disk's.
pub fn write_all_whole(files: &[(&Path, impl AsRef<[u8]>)]) -> anyhow::Result<()> {
    let failed =
        |path: &Path, error: &dyn std::fmt::Display| anyhow::anyhow!("{} cannot be written: {error}", path.display());
    let mut written = Vec::new();
    for (path, content) in files {
        if path.is_dir() {
            return Err(failed(path, &"it is a folder"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = tempfile::Builder::new().permissions(file_permissions()).tempfile_in(parent);
        // The whole error would name a file that nobody asked for.
        let mut file = made.map_err(|error| match error.kind() {
            ErrorKind::NotFound => failed(path, &format!("there is no folder {}", parent.display())),
            kind => failed(path, &kind),
        })?;
        let write = |file: &mut fs::File| file.write_all(content.as_ref()).and_then(|()| file.sync_all());
        write(file.as_file_mut()).map_err(|error| failed(path, &error))?;
        written.push(file);
    }
    for ((path, _), file) in files.iter().zip(written) {
        file.persist(path).map_err(|error| failed(path, &error.error.kind()))?;
    }
    Ok(())
}

/// Those of an ordinary new file; temporary ones are the owner's alone.
#[cfg(unix)]
fn file_permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn cannot(path: &Path, what: &str, error: &dyn std::fmt::Display) -> UserFault {
    let message = format!("the output folder {} cannot be {what}: {error}", path.display());
    UserFault::new(message).hint("choose another with --out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_all_or_none() {
        let root = tempfile::tempdir().unwrap();
        let (good, missing) = (root.path().join("a.svg"), root.path().join("b").join("c.csv"));
        let error = write_all_whole(&[(good.as_path(), "1"), (missing.as_path(), "2")]).unwrap_err().to_string();
        let folder = missing.parent().unwrap().display().to_string();
        assert_eq!(error, format!("{} cannot be written: there is no folder {folder}", missing.display()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_run_that_does_not_start_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (there, deep, runs) = (root.path().join("there"), root.path().join("a/b/c"), root.path().join("runs"));
        fs::create_dir(&there).unwrap();
        for path in [there.clone(), deep.clone()] {
            let folder = OutFolder::at(path).unwrap();
            fs::create_dir(folder.path().join("checkpoints")).unwrap();
            write_whole(&folder.path().join("run.toml"), "x").unwrap();
        }
        drop(OutFolder::numbered(&runs).unwrap());
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, std::slice::from_ref(&there));
        assert_eq!(fs::read_dir(there).unwrap().count(), 0);
    }

    #[test]
    fn numbers_go_on_and_kept_folders_stay() {
        let root = tempfile::tempdir().unwrap();
        let runs = root.path().join("runs");
        fs::create_dir_all(runs.join("7")).unwrap();
        fs::create_dir_all(runs.join("notes")).unwrap();
        let mut first = OutFolder::numbered(&runs).unwrap();
        let second = OutFolder::numbered(&runs).unwrap();
        assert_eq!((first.path(), second.path()), (&*runs.join("8"), &*runs.join("9")));
        first.keep();
        drop((first, second));
        assert!(runs.join("8").exists() && !runs.join("9").exists());
    }

    #[test]
    fn folders_that_will_not_do() {
        let root = tempfile::tempdir().unwrap();
        let full = root.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("thing"), "x").unwrap();
        let name = full.display().to_string();
        let fault = OutFolder::at(full.clone()).unwrap_err();
        assert_eq!(fault.to_string(), format!("the output folder {name} has something in it"));
        assert_eq!(fault.hints, ["choose another with --out"]);
        fs::write(full.join("run.toml"), "").unwrap();
        let hints = OutFolder::at(full.clone()).unwrap_err().hints;
        assert_eq!(hints[1..], [format!("continue the run in it with --resume {name}")]);
        let fault = OutFolder::at(full.join("thing")).unwrap_err();
        assert!(fault.to_string().starts_with(&format!("the output folder {name}/thing cannot be used: ")), "{fault}");
        let fault = OutFolder::at(full.join("thing/below")).unwrap_err();
        assert!(fault.to_string().contains("/thing/below cannot be "), "{fault}");
        assert!(full.join("thing").exists());
    }
}
