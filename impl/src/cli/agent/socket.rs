//! Sockets in the file system: whose they are, and who may connect (`unix_sockets`).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;

use tokio::net::{UnixListener, UnixSocket};

use crate::cli::go_error;
use crate::config::SocketAccess;

/// How many connections wait to be taken.
const BACKLOG: u32 = 1024;

/// Listens at `path`, once the socket there belongs to whom it shall and has the permissions that it shall have: before
/// that nobody can connect.
pub(super) fn listen(path: &Path, access: &SocketAccess) -> Result<UnixListener, String> {
    // A socket that a killed agent left behind would refuse this one for ever.
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path)
            .map_err(|error| format!("remove {}: {}", path.display(), go_error(&error)))?;
    }
    let failed = |error: std::io::Error| {
        format!("listen unix {}: bind: {}", path.display(), go_error(&error))
    };
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    let listener = restrict(path, access).and_then(|()| socket.listen(BACKLOG).map_err(failed));
    if listener.is_err() {
        let _ = fs::remove_file(path);
    }
    listener
}

fn restrict(path: &Path, access: &SocketAccess) -> Result<(), String> {
    let number = |table: &str, name: &str| {
        name.parse().ok().or_else(|| {
            let entries = fs::read_to_string(table).unwrap_or_default();
            number_of(&entries, name)
        })
    };
    let user = access.user.as_ref().map(|name| {
        number("/etc/passwd", name)
            .ok_or_else(|| format!("failed to look up user {name}: user: unknown user {name}"))
    });
    let group = access.group.as_ref().map(|name| {
        number("/etc/group", name).ok_or_else(|| format!("invalid group specified: {name}"))
    });
    let (user, group) = (user.transpose()?, group.transpose()?);
    let shown = path.display();
    if user.is_some() || group.is_some() {
        let id = |id: Option<u32>| id.map_or_else(|| "-1".to_owned(), |id| id.to_string());
        chown(path, user, group).map_err(|error| {
            let (user, group) = (id(user), id(group));
            format!(
                "failed setting ownership to {user}:{group} on \"{shown}\": {}",
                go_error(&error)
            )
        })?;
    }
    if let Some(mode) = access.mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| {
            format!("failed setting permissions to {mode:o} on \"{shown}\": {}", go_error(&error))
        })?;
    }
    Ok(())
}

/// The number of a name in a table of the form of `/etc/passwd` and `/etc/group`: name, password, number.
fn number_of(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn access(user: Option<String>, group: Option<String>, mode: Option<u32>) -> SocketAccess {
        SocketAccess { user, group, mode }
    }

    #[test]
    fn names_have_the_numbers_of_the_table() {
        let table = "root:x:0:0:root:/:/bin/sh\n# consuls:x:7:\nconsul:x:104:105::/:\nbad:x:y:\n";
        assert_eq!(number_of(table, "consul"), Some(104));
        assert_eq!(number_of(table, "root"), Some(0));
        for name in ["consuls", "bad", "", "x"] {
            assert_eq!(number_of(table, name), None, "{name}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_whose_it_shall_be_with_the_mode_that_it_shall_have() {
        let folder = tempfile::tempdir().unwrap();
        let own = fs::metadata(folder.path()).unwrap();
        let (user, group) = (own.uid().to_string(), own.gid().to_string());
        let path = folder.path().join("api");
        // What stands there from before is no hindrance.
        for mode in [0o600, 0o666] {
            let access = access(Some(user.clone()), Some(group.clone()), Some(mode));
            let _listener = listen(&path, &access).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(
                (found.mode() & 0o777, found.uid(), found.gid()),
                (mode, own.uid(), own.gid())
            );
        }
    }

    #[tokio::test]
    async fn a_socket_that_cant_be_given_away_isnt_listened_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let nobody = || Some("no such name".to_owned());
        assert_eq!(
            listen(&path, &access(nobody(), None, None)).unwrap_err(),
            "failed to look up user no such name: user: unknown user no such name"
        );
        assert_eq!(
            listen(&path, &access(None, nobody(), None)).unwrap_err(),
            "invalid group specified: no such name"
        );
        assert!(!path.exists());
    }
}
