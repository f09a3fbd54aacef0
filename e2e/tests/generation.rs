//! Each connection is judged by one policy generation (design 7.7).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use e2e::{Host, Running};
use serde_json::json;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Filter, Service};

/// A policy that decides by its first filter and its last alone: whoever began to judge by another
/// one, and went on by this, would find no match or the same service twice.
fn far_apart(first: &Service, last: &Service) -> Vec<Filter> {
    let nothing = Filter {
        ports: Some((1, 1)),
        ..Filter::redirect_all(first.number)
    };
    let mut filters = vec![nothing; 256];
    filters[0] = Filter::redirect_all(first.number);
    filters[255] = Filter::redirect_all(last.number);
    filters
}

/// Answers once both services have seen the connection, else goes on. Counts who came first.
fn serve(host: &Host, service: &Service, firsts: &Arc<AtomicU64>) -> Running {
    let firsts = Arc::clone(firsts);
    host.serve(service, move |mut stream, flow| {
        use std::io::Write;
        if flow.chain().len() == 2 {
            return stream.write_all(flow.original_destination().to_string().as_bytes());
        }
        firsts.fetch_add(1, Ordering::Relaxed);
        e2e::both_ways(stream, flow.connect().map_err(std::io::Error::other)?)
    })
}

#[test]
fn connection_is_judged_by_one_generation_while_policies_are_swapped() {
    const ALL: u64 = 20 * 200;
    let mut host = Host::new("generations");
    let (a, b) = (host.service("a"), host.service("b"));
    let firsts: [Arc<AtomicU64>; 2] = Default::default();
    let proxies = [serve(&host, &a, &firsts[0]), serve(&host, &b, &firsts[1])];
    let policies = [far_apart(&a, &b), far_apart(&b, &a)];
    host.set_policy(&policies[0]);
    let mut storm = host.client(&["storm", "--threads", "20", "--count", "200"]);
    let mut swaps = 0;
    while storm.child().try_wait().expect("may be asked").is_none() {
        host.set_policy(&policies[(swaps + 1) % 2]);
        swaps += 1;
    }
    assert_eq!(storm.json(), json!({ "good": ALL, "failures": {} }));
    assert!(swaps > 10, "only {swaps} swaps");
    let [by_a, by_b] = firsts.map(|count| count.load(Ordering::Relaxed));
    assert!(by_a > 0 && by_b > 0, "both policies were in force");
    assert_eq!(by_a + by_b, ALL);
    for flow in proxies.iter().flat_map(Running::flows) {
        let chain: Vec<_> = flow.chain().collect();
        let whole = [vec!["a"], vec!["b"], vec!["a", "b"], vec!["b", "a"]];
        assert!(whole.contains(&chain), "{chain:?}");
    }
    assert_eq!(host.count(Counter::Redirected), 2 * ALL);
}
