//! Compares the kernel's tokens with those that a well-known library computes from the same key.

use std::fs;
use std::hash::Hasher;
use std::net::TcpStream;

use sidetrack::Listener;
use sidetrack_engine::{Cgroup, Config, Engine, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};
use siphasher::sip128::{Hasher128, SipHasher24};

/// A cgroup for this test. On drop, the process returns to its cgroup, and this one is removed.
struct TestCgroup {
    cgroup: Cgroup,
    before: Cgroup,
}

impl TestCgroup {
    fn enter(name: &str) -> Self {
        let before = Cgroup::of_process(None).expect("this process has a cgroup");
        let root = Cgroup::root().expect("cgroup v2 is mounted");
        let _ = fs::remove_dir(root.path().join(name)); // left by an earlier run that was killed
        let cgroup = root.make(name).expect("a cgroup can be made");
        cgroup
            .add(std::process::id())
            .expect("this process can be moved");
        Self { cgroup, before }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        self.before.add(std::process::id()).expect("may move");
        self.cgroup.remove().expect("it is empty");
    }
}

#[test]
fn token_of_the_kernel_is_siphash_2_4_128_of_the_flow_id() {
    let home = TestCgroup::enter("engine-token");
    let mut engine = Engine::open(&home.cgroup, Config::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach())
        .expect("an engine");
    // With a legacy service, LISTEN does not make this process an owner, so it is also a program.
    let service = engine
        .add_service(&ServiceSpec::legacy("inspect"), &home.cgroup)
        .expect("a service");
    engine
        .commit(&in_order([Redirect::tcp(service.key)]), &[])
        .expect("a policy");
    let credentials = sidetrack::Service::from_bytes(service.credentials())
        .expect("the engine's credentials are valid");
    let listener = Listener::bind(&credentials).expect("a listener");
    for _ in 0..100 {
        let _client = TcpStream::connect("10.1.2.3:80").expect("it is diverted");
        let connection = listener.accept().expect("it arrives");
        let token = connection.flow().records().to_bytes();
        let id = connection.flow().id();
        let [key0, key1] = engine.token_key();
        let mut hasher = SipHasher24::new_with_keys(key0, key1);
        hasher.write(&id.to_le_bytes());
        assert_eq!(token[..8], id.to_ne_bytes());
        assert_eq!(token[16..], hasher.finish128().as_bytes());
    }
    drop(engine);
}
