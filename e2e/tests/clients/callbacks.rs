//! Protocols in which the client sends its own address, as getsockname returns it, and the server
//! connects back to it: active FTP, and SIP over TCP.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use e2e::comparison::{Comparison, same};
use e2e::run::shared_folder;
use e2e::{FarHost, netns, programs};

use crate::file;
use crate::server::Server;

#[test]
#[ignore = "make test-clients runs it"]
fn active_ftp() {
    programs::require(&[("curl", "curl"), ("tnftp", "tnftp")]);
    netns::enter();
    let far = FarHost::start();
    let folder = shared_folder();
    let _server = far.inside(|| start_vsftpd(folder.path()));
    let [v4, v6] = FarHost::FAR;
    let python = file("ftp.py");
    let comparison = Comparison::of(&format!(
        "row curl curl -sS -m 10 -P - ftp://{v4}/file
         row 'curl, PORT' curl -sS -m 10 -P - --disable-eprt ftp://{v4}/file
         row 'curl over IPv6' curl -sS -m 10 -P - 'ftp://[{v6}]/file'
         row 'curl, passive' curl -sS -m 10 ftp://{v4}/file
         tnftp() {{ timeout 10 env tnftp -A -V -o - ftp://anonymous:x@{v4}/file; }}
         row tnftp tnftp
         row python timeout 10 python3 {python} {v4}
         row 'python over IPv6' timeout 10 python3 {python} {v6}"
    ));
    comparison.assert_rows(&[
        same("curl", "origin"),
        same("curl, PORT", "origin"),
        same("curl over IPv6", "origin"),
        same("curl, passive", "origin"),
        same("tnftp", "origin"),
        same("python", "origin"),
        same("python over IPv6", "origin"),
    ]);
}

/// Starts vsftpd, which refuses addresses other than that of the control connection.
fn start_vsftpd(folder: &Path) -> Server {
    const VSFTPD: &str = "/usr/sbin/vsftpd";
    assert!(Path::new(VSFTPD).exists(), "apt-get install vsftpd");
    let root = folder.join("root");
    fs::create_dir(&root).expect("the folder is the test's");
    fs::write(root.join("file"), "origin\n").expect("the folder is the test's");
    // vsftpd refuses a root folder to which the user can write.
    fs::set_permissions(&root, PermissionsExt::from_mode(0o555)).expect("it is the test's");
    let secure = folder.join("secure");
    fs::create_dir(&secure).expect("the folder is the test's");
    let configuration = format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\n\
         anon_root={}\nsecure_chroot_dir={}\nconnect_from_port_20=YES\nseccomp_sandbox=NO\n\
         xferlog_enable=NO\n",
        root.display(),
        secure.display()
    );
    let path = folder.join("vsftpd.conf");
    fs::write(&path, configuration).expect("the folder is the test's");
    Server::start(Command::new(VSFTPD).arg(path), "127.0.0.1:21")
}

#[test]
#[ignore = "make test-clients runs it"]
fn sip() {
    netns::enter();
    let far = FarHost::start();
    let python = file("sip.py");
    let _server = far.inside(|| {
        let mut command = Command::new("python3");
        Server::start(command.args([&python, "server"]), "127.0.0.1:5060")
    });
    let [v4, v6] = FarHost::FAR;
    let comparison = Comparison::of(&format!(
        "row IPv4 timeout 10 python3 {python} {v4}
         row IPv6 timeout 10 python3 {python} {v6}"
    ));
    let expected = "200 OK to a true Via, INVITE over a second connection";
    comparison.assert_rows(&[same("IPv4", expected), same("IPv6", expected)]);
}
