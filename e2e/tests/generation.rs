//! Each connection is classified by one generation of the policy, also with a chain (ARCHITECTURE.md,
//! What must always hold, 7). generations.rs has the other tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use e2e::policy::redirect_tcp;
use e2e::{Host, RunningProxy};
use sidetrack_engine::RegisteredService;
use sidetrack_engine::counter::Counter;
use sidetrack_policy::Filter;
use sidetrack_policy::redirect::in_order;

/// A policy in which only the first and the last filter match. A classification that started with the
/// other policy, and continued with this one, would find no match, or the same service twice.
fn first_and_last_match(first: &RegisteredService, last: &RegisteredService) -> Vec<Filter> {
    let mut redirects = vec![redirect_tcp(first).ports(1..=1); 256];
    redirects[0] = redirect_tcp(first);
    redirects[255] = redirect_tcp(last);
    in_order(redirects)
}

/// A proxy that answers if both services have seen the connection, and otherwise relays. It counts the
/// connections that it sees first.
fn serve(host: &Host, service: &RegisteredService, firsts: &Arc<AtomicU64>) -> RunningProxy {
    let firsts = Arc::clone(firsts);
    host.serve(service, move |mut stream, flow| {
        use std::io::Write;
        if flow.chain().len() == 2 {
            return stream.write_all(flow.original_destination().to_string().as_bytes());
        }
        firsts.fetch_add(1, Ordering::Relaxed);
        e2e::copy_both_ways(stream, flow.connect().map_err(std::io::Error::other)?)
    })
}

#[test]
fn chain_is_classified_by_one_generation_while_policies_are_swapped() {
    const ALL: u64 = 20 * 200;
    let mut host = Host::new("generations");
    let (a, b) = (host.service("a"), host.service("b"));
    let firsts: [Arc<AtomicU64>; 2] = Default::default();
    let proxies = [serve(&host, &a, &firsts[0]), serve(&host, &b, &firsts[1])];
    let policies = [first_and_last_match(&a, &b), first_and_last_match(&b, &a)];
    host.commit(&policies[0], &[]);
    let mut storm = host.client(&["storm", "--threads", "20", "--count", "200"]);
    let mut swaps = 0;
    while storm
        .child()
        .try_wait()
        .expect("the storm is a child process")
        .is_none()
    {
        host.commit(&policies[(swaps + 1) % 2], &[]);
        swaps += 1;
    }
    let report = storm.json();
    assert_eq!(report["good"], ALL, "{report}");
    assert!(swaps > 10, "only {swaps} swaps");
    let [a_first, b_first] = firsts.map(|count| count.load(Ordering::Relaxed));
    assert!(a_first > 0 && b_first > 0, "both policies were in force");
    assert_eq!(a_first + b_first, ALL);
    for flow in proxies.iter().flat_map(RunningProxy::flows) {
        let chain: Vec<_> = flow.chain().collect();
        let valid = [vec!["a"], vec!["b"], vec!["a", "b"], vec!["b", "a"]];
        assert!(valid.contains(&chain), "{chain:?}");
    }
    assert_eq!(host.count(Counter::Redirected), 2 * ALL);
}
