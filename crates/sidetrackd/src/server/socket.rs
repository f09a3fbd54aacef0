//! The Unix sockets of the daemon.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::net::UnixListener;

/// The permissions of a socket. Every user may connect; each call checks the permissions of its
/// caller, and descriptors are handed out for credentials.
const MODE: u32 = 0o666;
/// The permissions of its folder, if it is created.
const FOLDER_MODE: u32 = 0o755;

/// Creates a Unix socket and its folder. Replaces a socket that has no listener any more, and
/// nothing else.
///
/// Errors: the kernel's; [`ErrorKind::AddrInUse`] if another process listens at this path;
/// [`ErrorKind::AlreadyExists`] if there is something else than a socket.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)?;
    }
    remove_unused(socket)?;
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Removes a socket that no process listens at.
fn remove_unused(socket: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?.file_type(),
    };
    if !kind.is_socket() {
        let what = match () {
            () if kind.is_file() => "a file",
            () if kind.is_dir() => "a folder",
            () if kind.is_symlink() => "a symbolic link",
            () => "something else",
        };
        let text = format!("there is {what} and not a socket; remove it, or set another path");
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(socket) {
        Ok(_) => {
            let text = "another process listens there; is sidetrackd running already?";
            Err(io::Error::new(ErrorKind::AddrInUse, text))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(socket),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_without_listener_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/socket");
        let listener = listen(&path).unwrap();
        let error = listen(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        drop(listener);
        assert!(path.exists());
        let listener = listen(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "contents").unwrap();
        fs::create_dir(at("folder")).unwrap();
        // Through a link, the daemon would remove the link, and other programs would look behind it.
        let socket = listen(&at("socket")).unwrap();
        drop(socket);
        symlink(at("socket"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        for (name, what) in [
            ("file", "a file"),
            ("folder", "a folder"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
        ] {
            let error = listen(&at(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}");
            assert!(error.to_string().contains(what), "{error}");
            assert!(fs::symlink_metadata(at(name)).is_ok(), "{name} is gone");
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "contents");
        assert!(at("socket").exists());
    }
}
