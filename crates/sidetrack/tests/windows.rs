//! On Windows, and under Wine: the control codes are asked for real, and "not supported" is what it is.
#![cfg(windows)]

use std::net::{TcpListener, TcpStream, UdpSocket};

use sidetrack::{DatagramListener, Error, Listener, Records, Service};
use socket2::{Domain, Socket, Type};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Wine answers WSAEOPNOTSUPP; Windows says that nothing is recorded.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NoEngine | Error::NotRedirected)
}

#[test]
fn a_connection_that_nobody_redirected_has_no_flow() {
    let (accepted, _client) = pair();
    let error = sidetrack::query(&accepted).unwrap_err();
    assert!(is_absent(&error), "{error}");
}

#[test]
fn an_unconnected_socket_says_so() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = sidetrack::query(&socket).unwrap_err();
    assert!(
        matches!(error, Error::NotConnected) || is_absent(&error),
        "{error}"
    );
}

#[test]
fn records_are_refused_where_there_is_no_engine() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = sidetrack::set_records(&socket, &Records::from_bytes(&[7; 32])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoEngine | Error::BadRecords | Error::System { .. }
        ),
        "{error}"
    );
}

#[test]
fn listener_of_a_service_listens_where_the_driver_redirects_to() {
    let service = Service::at("127.0.0.1:0".parse().unwrap());
    let listener = Listener::bind(&service).unwrap();
    let address = listener.addresses().unwrap()[0];
    let _client = TcpStream::connect(address).unwrap();
    if is_wine() {
        assert!(matches!(listener.accept(), Err(Error::NoEngine)));
    }
}

#[test]
fn datagrams_come_without_control_data_or_not_at_all() {
    let listener = match DatagramListener::bind(&Service::at("127.0.0.1:0".parse().unwrap())) {
        Err(Error::NoEngine) => return, // Wine knows no such option
        bound => bound.unwrap(),
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .send_to(b"hello", listener.socket().local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 64];
    let datagram = listener.receive(&mut buffer).unwrap();
    assert_eq!(&buffer[..datagram.length], b"hello");
    assert!(datagram.records.is_none() && datagram.told().is_none());
}

#[test]
fn the_environment_says_where() {
    assert!(matches!(Service::from_env(), Err(Error::NoCredentials(_))));
}

fn is_wine() -> bool {
    std::env::var_os("WINELOADERNOEXEC").is_some() || std::env::var_os("WINEPREFIX").is_some()
}
