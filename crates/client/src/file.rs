//! Files that hold secrets: mode 0600, replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Error;

/// Largest file read into memory, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Replaces `path` with `bytes`, readable by its owner alone. After a crash the old or the new content is there, never
/// a part of one.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes).map_err(|source| Error::File { attempted: "writing", path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_private_dir(parent)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = parent.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        make_private(&file)?;
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    sync_dir(parent)
}

#[cfg(unix)]
fn make_private(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn make_private(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn make_private_at(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn make_private_at(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a directory, and those above it, that only its owner may enter.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// The text of a file that holds a secret, without its final line break. At most 1 MiB.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, Error> {
    let file = |source| Error::File { attempted: "reading", path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    File::open(path).map_err(file)?.take(MAX_FILE).read_to_string(&mut text).map_err(file)?;
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Takes from others the right to read a file, if it is there.
///
/// By its name: closing a handle of a file ends every lock that this process has on it (POSIX), and SQLite's with them.
/// The next program to open and close that database would then take its log away from under us.
pub fn keep_private(path: &Path) -> Result<(), Error> {
    match make_private_at(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { attempted: "protecting", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whether others than the file's owner may read it. False where there are no such modes.
pub fn readable_by_others(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inner/secret.toml");
        write_private(&path, b"first\n").unwrap();
        assert!(!readable_by_others(&path));
        assert!(!readable_by_others(path.parent().unwrap()));
        write_private(&path, b"second\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn an_open_file_becomes_private_when_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(readable_by_others(&path));
        write_private(&path, b"y").unwrap();
        assert!(!readable_by_others(&path));
    }
}
