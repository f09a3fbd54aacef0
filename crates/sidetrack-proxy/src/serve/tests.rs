use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::connection::{Carried, carry};
use crate::end::How;

const DEADLINE: Duration = Duration::from_secs(10);

/// Serves on the loopback device, relaying everything to `origin`; gives what became of each.
async fn relay_server(
    listener: TcpListener,
    origin: SocketAddr,
    stop: oneshot::Receiver<Duration>,
    done: mpsc::UnboundedSender<Carried>,
) -> Result<(), Error> {
    let accept = async || {
        let accepted = listener.accept().await;
        accepted.map_err(|source| Error::System {
            what: "accept",
            source,
        })
    };
    let handle = move |(client, _): (TcpStream, SocketAddr), stopped: Stopped| {
        let done = done.clone();
        async move {
            let connect = async {
                let connected = TcpStream::connect(origin).await;
                connected.map_err(|source| Error::System {
                    what: "connect",
                    source,
                })
            };
            let settings = Settings::default();
            done.send(carry(client, origin, connect, &settings, stopped.wait()).await)
                .unwrap();
        }
    };
    let stop_at = async { stop.await.unwrap() };
    accept_until(stop_at, CONNECTIONS_MAX, &accept, handle).await
}

async fn local() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_stop_waits_for_the_open_and_then_ends_them() {
    for (grace, wanted) in [(DEADLINE, How::Closed), (Duration::ZERO, How::Stopped)] {
        let ((listener, proxy), (origin, origin_address)) = (local().await, local().await);
        let (stop, stopped) = oneshot::channel();
        let (done, mut ended) = mpsc::unbounded_channel();
        let server = tokio::spawn(relay_server(listener, origin_address, stopped, done));
        let mut client = TcpStream::connect(proxy).await.unwrap();
        let (mut server_side, _) = origin.accept().await.unwrap();
        client.write_all(b"\0hello").await.unwrap();
        server_side.read_exact(&mut [0; 6]).await.unwrap();

        stop.send(grace).unwrap();
        if wanted == How::Closed {
            drop((client, server_side));
        }
        timeout(DEADLINE, server).await.unwrap().unwrap().unwrap();
        let carried = ended.recv().await.unwrap();
        assert_eq!((carried.ended.how, carried.ended.bytes_up), (wanted, 6));
        assert!(TcpStream::connect(proxy).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn passing_errors_pause_and_final_ones_end() {
    let errors = Mutex::new(vec![
        Error::NoEngine,
        Error::System {
            what: "accept",
            source: io::Error::from_raw_os_error(24),
        }, // EMFILE
        Error::NoContext,
    ]);
    let begun = tokio::time::Instant::now();
    let accept = || future::ready(Err::<(), _>(errors.lock().unwrap().pop().unwrap()));
    let ended = accept_until(future::pending(), 1, accept, |(), _| future::ready(())).await;
    assert!(matches!(ended, Err(Error::NoEngine)));
    assert_eq!(begun.elapsed(), 2 * ACCEPT_PAUSE);
}

#[tokio::test]
async fn accepting_waits_while_all_places_are_taken() {
    let (leave, places) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (stop, stopped) = oneshot::channel();
    let (full, mut is_full) = mpsc::unbounded_channel();
    let handle = {
        let (leave, places) = (leave.clone(), places.clone());
        move |(), _| {
            let taken = places.fetch_add(1, Ordering::SeqCst) + 1;
            if taken >= CONNECTIONS_MAX {
                full.send(taken).unwrap();
            }
            let leave = leave.clone();
            async move { leave.acquire().await.unwrap().forget() }
        }
    };
    let accept = || future::ready(Ok(()));
    let stop_at = async { stopped.await.unwrap() };
    let server = accept_until(stop_at, CONNECTIONS_MAX, accept, handle);
    let check = async {
        assert_eq!(is_full.recv().await, Some(CONNECTIONS_MAX));
        leave.add_permits(1);
        assert_eq!(is_full.recv().await, Some(CONNECTIONS_MAX + 1));
        assert!(is_full.try_recv().is_err());
        stop.send(DEADLINE).unwrap();
        leave.add_permits(CONNECTIONS_MAX);
    };
    timeout(DEADLINE, async { tokio::join!(server, check) })
        .await
        .unwrap()
        .0
        .unwrap();
}
